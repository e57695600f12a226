"""metrics.csv over a long run, a killed one, and a full disk."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path

import pytest

from d2rl.csv_logger import CsvLogger


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "metrics.csv"


def test_a_long_run_only_appends_and_remembers_one_row(path):
    logger = CsvLogger(path)
    for step in range(0, 1000, 10):
        logger.log_metrics({"a": step / 7}, step)
        logger.log_metrics({"b": 1.0}, step)
        before = path.stat().st_ino if path.exists() else None
        logger.save()
        assert before in (None, path.stat().st_ino)  # the same file
        assert logger.rows == []
    assert [float(row["a"]) for row in read(path)] == [step / 7 for step in range(0, 1000, 10)]


def test_a_row_that_is_in_the_file_may_get_more_values(path):
    logger = CsvLogger(path)
    for step in (10, 20):
        logger.log_metrics({"a": 1.0}, step)
        logger.save()
    logger.log_metrics({"a": 2.0, "b": 3.0}, 20)
    logger.log_metrics({"a": 4.0}, 30)
    logger.save()
    assert read(path) == [
        {"environment_steps": "10", "a": "1.0", "b": ""},
        {"environment_steps": "20", "a": "2.0", "b": "3.0"},
        {"environment_steps": "30", "a": "4.0", "b": ""},
    ]


def test_half_a_row_of_a_killed_run_is_dropped(path):
    first = CsvLogger(path)
    for step in (10, 20, 120):
        first.log_metrics({"a": float(step)}, step)
    first.save()
    text = path.read_text()
    path.write_text(text[: text.index("120,") + 2])  # "12", which is below the step to resume from
    second = CsvLogger(path)
    second.resume(20)
    second.log_metrics({"a": 30.0}, 30)
    second.save()
    assert [row["environment_steps"] for row in read(path)] == ["10", "20", "30"]


def test_a_resumed_file_is_the_file_of_one_run_to_the_last_byte(path, tmp_path):
    def log(logger: CsvLogger, steps: range) -> None:
        for step in steps:
            logger.log_metrics({"a": step / 3, **({"late": 1.0} if step > 5 else {})}, step)
            logger.save()

    whole = CsvLogger(tmp_path / "whole.csv")
    log(whole, range(10))
    log(CsvLogger(path), range(8))
    resumed = CsvLogger(path)
    resumed.resume(4)
    log(resumed, range(5, 10))
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_what_does_not_fit_on_the_disk_is_written_when_it_does(path, monkeypatch, caplog):
    logger = CsvLogger(path)
    logger.log_metrics({"a": 1.0}, 10)
    logger.save()
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for step in (20, 30):
        logger.log_metrics({"a": 2.0}, step)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            logger.save()
        assert path.read_bytes() == before  # no half rows
    assert "metrics.csv cannot be written: No space left on device; training goes on" in caplog.text
    logger.save()
    assert [row["environment_steps"] for row in read(path)] == ["10", "20", "30"]


def test_a_file_that_has_vanished_is_begun_anew(path):
    logger = CsvLogger(path)
    logger.log_metrics({"a": 1.0}, 10)
    logger.save()
    path.unlink()
    logger.log_metrics({"a": 2.0}, 20)
    logger.save()
    assert read(path) == [{"environment_steps": "20", "a": "2.0"}]

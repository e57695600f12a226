"""metrics.csv over a long run, a killed one, and a full disk."""

from __future__ import annotations

import csv
import errno
import math
import os
from pathlib import Path

import pandas
import pytest
from conftest import read_csv

from d2rl.runs.csv_logger import STEP, CsvLogger
from d2rl.runs.tracking import log


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "metrics.csv"


def test_columns_may_come_later_and_rows_may_lack_some(path):
    logger = CsvLogger(path)
    logger.log_metrics({"losses/critic": 1.5}, 10)
    logger.save()
    logger.log_metrics({"losses/critic": 1.25, "charts/chi": 0.1}, 20)
    logger.log_metrics({"eval/sum_rate": 60.0}, 30)
    logger.save()
    assert read_csv(path) == [
        {"environment_steps": "10", "losses/critic": "1.5", "charts/chi": "", "eval/sum_rate": ""},
        {"environment_steps": "20", "losses/critic": "1.25", "charts/chi": "0.1", "eval/sum_rate": ""},
        {"environment_steps": "30", "losses/critic": "", "charts/chi": "", "eval/sum_rate": "60.0"},
    ]


def test_values_of_one_step_share_a_row(path):
    logger = CsvLogger(path)
    log([logger], {"a": 1.0}, 10)
    log([logger], {"b": 2.0}, 10)
    log([logger], {"a": 3.0}, 20)
    logger.save()
    assert read_csv(path) == [
        {"environment_steps": "10", "a": "1.0", "b": "2.0"},
        {"environment_steps": "20", "a": "3.0", "b": ""},
    ]


def test_numbers_survive_to_the_last_bit(path):
    logger, value = CsvLogger(path), 0.1 + 0.2
    logger.log_metrics({"a": value}, 1)
    logger.save()
    assert float(read_csv(path)[0]["a"]) == value


def test_a_resumed_run_drops_the_rows_after_its_checkpoint(path):
    first = CsvLogger(path)
    for step in (10, 20, 30):
        first.log_metrics({"a": float(step), **({"late": 1.0} if step == 30 else {})}, step)
    first.save()
    second = CsvLogger(path)
    second.resume(20)
    second.log_metrics({"b": 5.0}, 20)
    second.log_metrics({"a": 31.0}, 30)
    second.save()
    found = [{key: value for key, value in row.items() if value} for row in read_csv(path)]
    assert found == [
        {"environment_steps": "10", "a": "10.0"},
        {"environment_steps": "20", "a": "20.0", "b": "5.0"},
        {"environment_steps": "30", "a": "31.0"},
    ]


def test_a_new_run_does_not_go_on_in_an_old_file(path):
    for value in (1.0, 2.0):
        logger = CsvLogger(path)
        logger.log_metrics({"a": value}, 10)
        logger.finalize("success")
    assert read_csv(path) == [{"environment_steps": "10", "a": "2.0"}]


def test_without_a_file_there_is_nothing_to_resume(path):
    logger = CsvLogger(path)
    logger.resume(20)
    logger.finalize("success")
    assert not path.exists()


def test_a_reader_never_meets_half_a_file(path):
    logger = CsvLogger(path)
    logger.log_metrics({"a": 1.0}, 10)
    logger.save()
    with open(path) as reader:
        logger.log_metrics({"a": 2.0, "b": 1.0}, 20)
        logger.save()
        assert len(list(csv.DictReader(reader))) == 1  # what it opened is whole and as it was
    assert len(read_csv(path)) == 2


def test_a_long_run_only_appends_and_remembers_one_row(path):
    logger = CsvLogger(path)
    for step in range(0, 1000, 10):
        logger.log_metrics({"a": step / 7}, step)
        logger.log_metrics({"b": 1.0}, step)
        before = path.stat().st_ino if path.exists() else None
        logger.save()
        assert before in (None, path.stat().st_ino)  # the same file
        assert logger.rows == []
    assert [float(row["a"]) for row in read_csv(path)] == [step / 7 for step in range(0, 1000, 10)]


def test_a_row_that_is_in_the_file_may_get_more_values(path):
    logger = CsvLogger(path)
    for step in (10, 20):
        logger.log_metrics({"a": 1.0}, step)
        logger.save()
    logger.log_metrics({"a": 2.0, "b": 3.0}, 20)
    logger.log_metrics({"a": 4.0}, 30)
    logger.save()
    assert read_csv(path) == [
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
    assert [row["environment_steps"] for row in read_csv(path)] == ["10", "20", "30"]


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
    assert [row["environment_steps"] for row in read_csv(path)] == ["10", "20", "30"]


def test_a_file_that_has_vanished_is_begun_anew(path):
    logger = CsvLogger(path)
    logger.log_metrics({"a": 1.0}, 10)
    logger.save()
    path.unlink()
    logger.log_metrics({"a": 2.0}, 20)
    logger.save()
    assert read_csv(path) == [{"environment_steps": "20", "a": "2.0"}]


def test_pandas_reads_it_without_help(tmp_path):
    """Columns that come up late, values that are not finite, a step that is logged twice."""
    log = CsvLogger(tmp_path / "metrics.csv")
    log.log_metrics({"eval/sum_rate": 1.5, "charts/updates": 0}, 0)
    log.save()
    log.log_metrics({"eval/sum_rate": math.nan, "losses/critic": math.inf}, 32)
    log.log_metrics({"charts/stage_action": 1.0}, 64)
    log.log_metrics({"eval/sum_rate": 2.5}, 64)
    log.save()
    table = pandas.read_csv(tmp_path / "metrics.csv", index_col=STEP)
    assert [*table.index] == [0, 32, 64]
    assert all(pandas.api.types.is_float_dtype(kind) for kind in table.dtypes)
    assert table["eval/sum_rate"].dropna().to_list() == [1.5, 2.5]
    assert table.loc[64, "charts/stage_action"] == 1

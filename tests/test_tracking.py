"""Loggers: one CSV whatever comes up, and W&B without network, account or questions."""

from __future__ import annotations

import csv
import io
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from d2rl.run_directory import RunDirectory
from d2rl.tracking import CsvLogger, log, make_loggers, wandb_id


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


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
    assert read(path) == [
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
    assert read(path) == [
        {"environment_steps": "10", "a": "1.0", "b": "2.0"},
        {"environment_steps": "20", "a": "3.0", "b": ""},
    ]


def test_numbers_survive_to_the_last_bit(path):
    logger, value = CsvLogger(path), 0.1 + 0.2
    logger.log_metrics({"a": value}, 1)
    logger.save()
    assert float(read(path)[0]["a"]) == value


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
    found = [{key: value for key, value in row.items() if value} for row in read(path)]
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
    assert read(path) == [{"environment_steps": "10", "a": "2.0"}]


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
    assert len(read(path)) == 2


def test_disabled_means_csv_alone(tiny, tmp_path):
    config = tiny("logger.mode=disabled", f"run_dir={tmp_path / 'run'}")
    loggers = make_loggers(config, RunDirectory.create(config, "test"), asdict(config))
    assert [logger.name for logger in loggers] == ["csv"]
    assert wandb_id(loggers) is None
    assert not (tmp_path / "run/wandb").exists()


def test_wandb_writes_offline_without_network_or_questions(tiny, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "WANDB_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.StringIO())  # a question would raise
    config = tiny("logger.mode=offline", f"run_dir={tmp_path / 'run'}")
    run = RunDirectory.create(config, "test")
    loggers = make_loggers(config, run, asdict(config))
    log(loggers, {"eval/sum_rate": 60.5}, 10)
    log(loggers, {"eval/sum_rate": 61.5}, 20)
    for logger in loggers:
        logger.finalize("success")
    identity = wandb_id(loggers)
    loggers[1].experiment.finish()
    (folder,) = run.wandb.glob("offline-run-*")
    assert folder.name.endswith(identity)
    (record,) = folder.glob("*.wandb")
    deadline = time.monotonic() + 30  # W&B's own process writes the file, and may do so after finish()
    while b"eval/sum_rate" not in record.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert b"eval/sum_rate" in record.read_bytes()
    assert [row["eval/sum_rate"] for row in read(run.metrics)] == ["60.5", "61.5"]
    again = make_loggers(config, run, asdict(config), identity)
    again[1].experiment.finish()
    assert wandb_id(again) == identity

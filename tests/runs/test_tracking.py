"""Loggers: one CSV whatever comes up, and W&B without network, account or questions."""

from __future__ import annotations

import io
import time
from dataclasses import asdict

from conftest import read_csv

from d2rl.runs.run_directory import RunDirectory
from d2rl.runs.tracking import log, make_loggers, wandb_id


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
    deadline = time.monotonic() + 600  # W&B's own process writes the file, and may do so after finish()
    while b"eval/sum_rate" not in record.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert b"eval/sum_rate" in record.read_bytes()
    assert [row["eval/sum_rate"] for row in read_csv(run.metrics)] == ["60.5", "61.5"]
    again = make_loggers(config, run, asdict(config), identity)
    again[1].experiment.finish()
    assert wandb_id(again) == identity

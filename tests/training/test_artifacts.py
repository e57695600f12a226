"""Checkpoints as W&B artifacts: sent by online runs alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import wandb

from d2rl.runs.run_directory import RunDirectory
from d2rl.runs.tracking import make_loggers
from d2rl.training.artifacts import log_artifacts, upload_checkpoints
from d2rl.training.checkpoint import load_checkpoint
from d2rl.training.train import train


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory) -> RunDirectory:
    """A finished offline run."""
    config = tiny("logger.mode=disabled", f"run_dir={tmp_path_factory.mktemp('artifacts') / 'run'}")
    finished = RunDirectory.create(config, "test")
    train(config, finished)
    return finished


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """A W&B run without network, and its record on the disk once it has ended."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))  # where artifacts are staged
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    with wandb.init(project="d2rl", dir=tmp_path, mode="offline") as begun:
        yield begun


def record(experiment, text: bytes) -> bytes:
    """What W&B has kept of a run; its own process writes it, and may do so after the end."""
    experiment.finish()
    (path,) = Path(experiment.dir).parent.glob("*.wandb")
    deadline = time.monotonic() + 600
    while text not in path.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    return path.read_bytes()


def test_best_and_last_become_versions_of_one_artifact_that_tell_where_they_come_from(run, experiment):
    sent = []
    log = experiment.log_artifact

    def seen(artifact, aliases):
        sent.append((artifact, aliases))
        return log(artifact, aliases=aliases)

    experiment.log_artifact = seen
    log_artifacts(experiment, run)
    assert [aliases for _, aliases in sent] == [["best"], ["last"]]
    assert {artifact.name.partition(":")[0] for artifact, _ in sent} == {f"checkpoint-{experiment.id}"}
    for (artifact, _), path in zip(sent, (run.best, run.last), strict=True):
        assert list(artifact.manifest.entries) == [path.name]
        assert artifact.manifest.entries[path.name].size == path.stat().st_size
        assert artifact.metadata["updates"] == load_checkpoint(path)["d2rl"]["updates"]
        assert artifact.type == "model"
    name = f"checkpoint-{experiment.id}".encode()
    assert name in record(experiment, name)


def test_an_offline_run_hands_over_nothing(run, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    config = tiny("logger.mode=offline", f"run_dir={tmp_path / 'run'}")
    own = RunDirectory.create(config, "test")
    loggers = make_loggers(config, own, {"some": "values"})
    experiment = loggers[1].experiment
    upload_checkpoints(loggers, run)
    experiment.log({"a": 1.0})
    kept = record(experiment, b"values")
    assert b"values" in kept
    assert b"checkpoint-" not in kept
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


def test_a_run_that_has_written_no_checkpoint_hands_over_nothing(experiment, tiny, tmp_path):
    empty = RunDirectory.create(tiny(f"run_dir={tmp_path / 'empty'}"), "test")
    log_artifacts(experiment, empty)
    assert b"checkpoint-" not in record(experiment, b"d2rl")

"""Loggers: one CSV whatever comes up, and W&B without network, account or questions."""

from __future__ import annotations

import io
import signal
import sys
import time
import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import wandb
from conftest import read_csv
from packaging.requirements import Requirement
from wandb_files import configuration, identity, parts, rows, status

from d2rl.algorithm.agent import D2RL
from d2rl.common.errors import ConfigError, Interrupted
from d2rl.problems.full_duplex import references
from d2rl.runs.run_directory import RunDirectory
from d2rl.runs.tracking import log, make_loggers, wandb_id
from d2rl.training.train import train


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


@pytest.fixture
def trained(tiny, tmp_path, monkeypatch):
    """Trains offline in ``tmp_path`` / name: ``trained("run", "seed=1", resume=...)``."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(references, "LIMIT", 2)

    def run(name: str, *overrides: str, resume: Path | None = None) -> Path:
        config = tiny("logger.mode=offline", f"run_dir={tmp_path / name}", *overrides)
        given = str(resume) if resume else None
        train(config, RunDirectory.create(replace(config, resume=given), "test"), given)
        return tmp_path / name

    return run


def test_each_training_of_a_process_has_a_run_of_its_own(trained, capsys):
    """The caller's run, too, is left to the caller, and is begun without a warning."""
    wandb.teardown()  # of other tests, with their environments
    with wandb.init(project="mine", mode="offline", dir=trained("first").parent) as mine:
        second = trained("second", "seed=1")
        assert wandb.run is mine
        mine.log({"mine": 1})
    assert "WARN" not in capsys.readouterr().err
    (before,), (after,), (own,) = (
        parts(folder / "wandb") for folder in (second.parent / "first", second, second.parent)
    )
    assert len({identity(one) for one in (before, after, own)}) == 3
    assert list(rows(before)) == list(rows(after)) == [0, 16, 32, 48, 64]
    assert rows(before) != rows(after)
    assert list(rows(own).values()) == [{"mine": 1}]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_parts_of_a_resumed_run_are_those_of_one_run(trained, tmp_path, monkeypatch):
    """Steps, numbers and configuration."""
    learn = D2RL.learn

    def asked(agent: D2RL) -> None:
        if agent.updates == 5:
            signal.raise_signal(signal.SIGINT)
        learn(agent)

    with monkeypatch.context() as patch:
        patch.setattr(D2RL, "learn", asked)
        with pytest.raises(Interrupted):
            trained("run")
    last = tmp_path / "run/checkpoints/last.ckpt"
    trained("run", resume=last)
    (whole,) = parts(trained("whole") / "wandb")
    first, second = parts(tmp_path / "run/wandb")
    assert identity(first) == identity(second)
    assert (status(first), status(second)) == (1, 0)
    assert list(rows(first)) == [0, 16, 32, 48]
    assert list(rows(second)) == [64]
    assert rows(first) | rows(second) == rows(whole)
    assert configuration(first)["run_dir"] == configuration(second)["run_dir"] == str(tmp_path / "run")


def test_a_run_that_is_resumed_without_its_directory_names_the_place(trained, tiny):
    """As ``resume=PATH`` alone does: the configuration then says nothing of where it writes."""
    path = trained("run", "trainer.epochs=1")
    config = replace(tiny("logger.mode=offline", "trainer.epochs=2"), resume=str(path))
    checkpoint = path / "checkpoints/last.ckpt"
    train(config, RunDirectory.create(config, "test"), str(checkpoint))
    assert [Path(configuration(part)["run_dir"]).resolve() for part in parts(path / "wandb")] == [path, path]


def test_wandb_is_one_that_joins_the_parts_of_a_run():
    """docs/dashboards.md says how that was seen."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (wanted,) = [one for one in map(Requirement, project["dependencies"]) if one.name == "wandb"]
    assert [version in wanted.specifier for version in ("0.27.2", "0.28.0", "0.28.1", "0.31.0")] == [0, 0, 1, 1]


def test_a_run_without_dashboards_needs_no_wandb(tiny, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        monkeypatch.setitem(sys.modules, name, None)
    config = tiny("logger.mode=disabled", f"run_dir={tmp_path / 'run'}")
    run = RunDirectory.create(config, "test")
    assert len(make_loggers(config, run, asdict(config))) == 1
    with pytest.raises(ConfigError, match=r"logger.mode=offline needs W&B, which is not installed: pip install wandb"):
        make_loggers(replace(config, logger=replace(config.logger, mode="offline")), run, asdict(config))

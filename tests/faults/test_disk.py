"""A full disk, one that turns read-only, and a run directory that vanishes."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from runs import SMALL, equal, metrics, trained

from d2rl.algorithm.agent import D2RL
from d2rl.common.errors import ConfigError, RunError
from d2rl.config.defaults import Config
from d2rl.problems import load_config
from d2rl.runs.run_directory import RunDirectory
from d2rl.training.checkpoint import load_checkpoint
from d2rl.training.train import train

PLAN = (*SMALL, "trainer.epochs=4", "stages.state=1")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def fit(path: Path, *overrides: str, resume: Path | None = None) -> RunDirectory:
    config = load_config([*PLAN, *overrides])
    config = replace(config, run_dir=str(path), resume=str(resume) if resume else None)
    run = RunDirectory.create(config, "test")
    try:
        train(config, run, str(resume) if resume else None)
    finally:
        run.release()
    return run


def mount(*options: str) -> None:
    done = subprocess.run(["mount", *options], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a file system of its own needs root's rights: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path) -> Path:
    """A file system of its own, 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=64m", "none", str(folder))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RunDirectory:
    """The run that nothing happens to."""
    with pytest.MonkeyPatch.context():
        return fit(tmp_path_factory.mktemp("runs") / "whole")


def during(monkeypatch, update: int, what) -> None:
    """Something happens in the middle of an update."""
    learn = D2RL.learn

    def learn_and(agent: D2RL) -> None:
        if agent.updates == update:
            what()
        learn(agent)

    monkeypatch.setattr(D2RL, "learn", learn_and)


def fill(disk: Path) -> None:
    """Leave not a byte."""
    with open(disk / "filler", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass


def empty(disk: Path) -> None:
    (disk / "filler").unlink()


@pytest.mark.slow
def test_a_run_whose_disk_is_full_trains_to_its_end_and_says_so(disk, whole, monkeypatch, caplog):
    """Its checkpoint of before stays whole; with room again, the run goes on from it as if nothing had been."""
    during(monkeypatch, 45, lambda: fill(disk))
    message = r"^run error: training is complete, but .*last\.ckpt cannot be written: No space left on device; .*$"
    with pytest.raises(RunError, match=message):
        fit(disk / "run")
    for name in ("last.ckpt", "metrics.csv", "timing.json"):
        assert f"{name} cannot be written: No space left on device" in caplog.text
    assert load_checkpoint(disk / "run/checkpoints/last.ckpt")["d2rl"]["updates"] == 40
    assert list(disk.glob("run/**/.*.unfinished")) == []

    monkeypatch.undo()
    empty(disk)
    fit(disk / "run", resume=disk / "run/checkpoints/last.ckpt")
    assert metrics(disk / "run") == metrics(whole.path)
    assert equal(trained(disk / "run/checkpoints/last.ckpt"), trained(whole.last))


@pytest.mark.slow
def test_checkpoints_that_turn_read_only_do_not_end_a_run_before_its_end(disk, whole, monkeypatch, caplog):
    folder = str(disk / "run/checkpoints")

    def lock() -> None:
        mount("--bind", folder, folder)
        mount("-o", "remount,bind,ro", folder)

    during(monkeypatch, 45, lock)
    with pytest.raises(RunError, match=r"last\.ckpt cannot be written: Read-only file system"):
        fit(disk / "run")
    assert "last.ckpt cannot be written: Read-only file system; training goes on" in caplog.text
    assert load_checkpoint(disk / "run/checkpoints/last.ckpt")["d2rl"]["updates"] == 40
    assert metrics(disk / "run") == metrics(whole.path)
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_disk_that_was_full_for_a_while_costs_nothing_in_the_end(disk, whole, monkeypatch, caplog):
    learn, happens = D2RL.learn, {25: fill, 65: empty}

    def learn_and(agent: D2RL) -> None:
        happens.get(agent.updates, lambda disk: None)(disk)
        learn(agent)

    monkeypatch.setattr(D2RL, "learn", learn_and)
    fit(disk / "run")
    assert "last.ckpt cannot be written: No space left on device; training goes on" in caplog.text
    assert metrics(disk / "run") == metrics(whole.path)
    assert equal(trained(disk / "run/checkpoints/last.ckpt"), trained(whole.last))


def test_a_directory_that_cannot_be_written_is_refused_at_the_start(disk):
    mount("-o", "remount,ro", str(disk))
    with pytest.raises(ConfigError, match=r"run_dir=.* cannot be written: Read-only file system"):
        fit(disk / "run")


@pytest.mark.slow
def test_a_run_directory_that_vanishes_is_made_anew(whole, tmp_path, monkeypatch, caplog):
    during(monkeypatch, 45, lambda: shutil.rmtree(tmp_path / "run"))
    run = fit(tmp_path / "run")
    assert "run has vanished while the run was going on; it is made anew" in caplog.text
    assert equal(trained(run.last), trained(whole.last))
    assert load_config([f"conf={run.config}"]).trainer.epochs == 4
    kept = metrics(tmp_path / "run").splitlines()[1:]
    assert [row.split(",")[0] for row in kept] == ["400", "480", "560", "640"][-len(kept) :]
    assert kept


@pytest.mark.slow
def test_a_run_whose_place_was_taken_ends_and_writes_nothing(tmp_path, monkeypatch):
    path, others = tmp_path / "run", []

    def take() -> None:
        shutil.rmtree(path)
        others.append(RunDirectory.create(Config(run_dir=str(path), seed=9), "test"))

    during(monkeypatch, 45, take)
    with pytest.raises(RunError, match="belongs to another run by now; this one ends"):
        fit(path)
    assert load_config([f"conf={path / 'config.yaml'}"]).seed == 9
    assert sorted(one.name for one in path.rglob("*")) == [".lock", "checkpoints", "config.yaml"]

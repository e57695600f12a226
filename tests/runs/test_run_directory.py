"""Run directories: where they are made, whom they refuse, how checkpoints are found."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from d2rl.common.errors import CheckpointError, ConfigError
from d2rl.common.files import write_json, write_text
from d2rl.config.defaults import Config
from d2rl.config.load import load
from d2rl.runs.run_directory import RunDirectory, find_checkpoint, run_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finished(path: str) -> RunDirectory:
    """A run that has ended with both checkpoints."""
    run = RunDirectory.create(Config(run_dir=path), "any")
    run.last.write_text("last")
    run.best.write_text("best")
    run.release()
    return run


def test_a_run_without_a_directory_gets_one_of_its_own():
    runs = [RunDirectory.create(Config(), "headline") for _ in range(3)]
    assert len({run.path for run in runs}) == 3
    assert all(re.fullmatch(r"runs/headline-\d{8}-\d{6}(-\d+)?", str(run.path)) for run in runs)


def test_its_configuration_is_written_and_its_checkpoints_have_a_place():
    config = load(["seed=5", "run_dir=somewhere/deep"])
    run = RunDirectory.create(config, "any")
    assert load([f"conf={run.config}"]) == config
    assert run.last.parent.is_dir()
    names = ("config.yaml", "metrics.csv", "timing.json", "eval.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt")
    paths = (run.config, run.metrics, run.timing, run.evaluation, run.last, run.best)
    assert tuple(str(path.relative_to("somewhere/deep")) for path in paths) == names


def test_a_directory_that_holds_another_run_is_refused_and_kept():
    run = finished("a")
    before = run.config.read_text()
    with pytest.raises(ConfigError, match=r"run_dir=a already holds a run .* resume=a"):
        RunDirectory.create(Config(run_dir="a", seed=9), "any")
    assert run.config.read_text() == before
    RunDirectory.create(Config(resume="a"), "any")  # the refusal left no lock behind


def test_a_run_that_ended_before_it_had_learned_anything_is_no_hindrance():
    RunDirectory.create(Config(run_dir="a"), "any").release()
    again = RunDirectory.create(Config(run_dir="a", seed=9), "any")
    assert load([f"conf={again.config}"]).seed == 9
    again.release()
    again.metrics.write_text("environment_steps\n")
    with pytest.raises(ConfigError, match="run_dir=a already holds a run"):
        RunDirectory.create(Config(run_dir="a"), "any")


def test_a_lone_configuration_is_not_overwritten(work):
    (work / "a").mkdir()
    (work / "a" / "config.yaml").write_text("seed: 3")
    with pytest.raises(ConfigError, match="run_dir=a already holds a run"):
        RunDirectory.create(Config(run_dir="a"), "any")
    assert (work / "a" / "config.yaml").read_text() == "seed: 3"


def test_a_directory_with_other_files_is_accepted(work):
    (work / "a").mkdir()
    (work / "a" / "notes.txt").write_text("mine")
    assert RunDirectory.create(Config(run_dir="a"), "any").config.exists()


@pytest.mark.parametrize("resume", ["a", "a/checkpoints/last.ckpt", "./a/checkpoints"])
@pytest.mark.parametrize("run_dir", [None, "a"])
def test_a_resumed_run_goes_on_in_its_own_directory(resume, run_dir):
    finished("a")
    run = RunDirectory.create(Config(resume=resume, run_dir=run_dir), "any")
    assert run.path.resolve() == Path("a").resolve()
    assert run.last.read_text() == "last"


def test_a_run_may_be_resumed_into_a_new_directory_but_not_into_another_run():
    finished("a")
    finished("b")
    assert RunDirectory.create(Config(resume="a", run_dir="c"), "any").path == Path("c")
    with pytest.raises(ConfigError, match="run_dir=b already holds a run"):
        RunDirectory.create(Config(resume="a", run_dir="b"), "any")


def test_a_copied_checkpoint_is_resumed_into_a_fresh_directory(work):
    (work / "copy.ckpt").write_text("x")
    assert run_of("copy.ckpt") is None
    assert RunDirectory.create(Config(resume="copy.ckpt"), "any").path.parent == Path("runs")


def test_the_run_of_a_checkpoint_is_found_from_anywhere(work, monkeypatch):
    run = finished("a")
    assert run_of(run.last) == run_of(run.last.absolute()) == Path("a")
    monkeypatch.chdir(run.checkpoints)
    assert run_of("last.ckpt") == work / "a"


def test_nothing_is_made_when_there_is_nothing_to_resume(work):
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        RunDirectory.create(Config(resume="nowhere", run_dir="a"), "any")
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("run_dir", ["file", "file/below", "x" * 300])
def test_a_place_that_cannot_be_written_is_one_message(work, run_dir):
    (work / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=f"run_dir={run_dir} cannot be written: "):
        RunDirectory.create(Config(run_dir=run_dir), "any")


def test_runs_that_is_a_file_is_one_message(work):
    (work / "runs").write_text("in the way")
    with pytest.raises(ConfigError, match="choose another run_dir"):
        RunDirectory.create(Config(), "any")


def test_a_run_in_use_by_another_process_is_refused_until_that_ends():
    script = """
import sys
from d2rl.config.defaults import Config
from d2rl.runs.run_directory import RunDirectory
run = RunDirectory.create(Config(run_dir="a"), "any")
run.last.write_text("x")
print("held", flush=True)
sys.stdin.read()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        for config in (Config(run_dir="a"), Config(resume="a")):
            with pytest.raises(ConfigError, match=f"run_dir=a is in use by process {other.pid};"):
                RunDirectory.create(config, "any")
        other.kill()  # no chance to clean up
        other.wait(timeout=600)
    assert RunDirectory.create(Config(resume="a"), "any").path == Path("a")


def test_a_released_directory_can_be_held_again():
    run = finished("a")
    again = RunDirectory.create(Config(resume="a"), "any")
    with pytest.raises(ConfigError, match="in use"):
        RunDirectory.create(Config(resume="a"), "any")
    again.release()
    again.release()
    assert RunDirectory.create(Config(resume=str(run.path)), "any").path == run.path


def test_the_checkpoint_of_a_run_is_the_last_to_resume_and_the_best_to_evaluate():
    run = finished("a")
    for path in (run.path, str(run.path), run.checkpoints):
        assert find_checkpoint(path) == run.last
        assert find_checkpoint(path, prefer="best") == run.best
    assert find_checkpoint(run.best) == run.best
    run.best.unlink()
    assert find_checkpoint("a", prefer="best") == run.last
    run.best.write_text("best")
    run.last.write_text("")  # the disk was full
    assert find_checkpoint("a") == run.best


def test_a_path_that_is_no_checkpoint_says_what_to_do(work):
    finished("runs/first-run")
    RunDirectory.create(Config(run_dir="young"), "any")
    (work / "nothing").mkdir()
    (work / "empty.ckpt").touch()
    (work / "other").mkdir()
    (work / "other" / "epoch=3.ckpt").write_text("x")
    for path, says in {
        "runs/first-rum": "does not exist. Did you mean runs/first-run?",
        "yung/checkpoints/last.ckpt": "does not exist. Did you mean young?",
        "qqq": "qqq does not exist.",
        "nothing": "nothing is an empty directory",
        "young": "young has no checkpoint: the run stopped before its first one",
        "young/checkpoints": "young/checkpoints is an empty directory",
        "runs": "runs holds runs, it is none itself; give one of runs/first-run",
        "other": "give one of other/epoch=3.ckpt",
        "empty.ckpt": "empty.ckpt is an empty file",
        "x" * 300: "",
    }.items():
        with pytest.raises(CheckpointError) as caught:
            find_checkpoint(path)
        assert says in str(caught.value)


def test_json_holds_plain_numbers_and_null_for_what_is_none(work):
    data = {
        "time_to_gap": {0.8: 1.5, "0.90": None, "0.95": float("inf")},
        "rate": np.float32(0.5),
        "links": torch.tensor([1.0, float("nan")]),
        "count": np.int64(3),
        "path": Path("a/b"),
        "many": (1, 2),
    }
    write_json("out.json", data)
    assert json.loads((work / "out.json").read_text()) == {
        "time_to_gap": {"0.8": 1.5, "0.90": None, "0.95": None},
        "rate": 0.5,
        "links": [1.0, None],
        "count": 3,
        "path": "a/b",
        "many": [1, 2],
    }


def test_a_reader_meets_the_old_content_or_the_new_one(work):
    write_text("out.json", "old" * 1000)
    with open("out.json") as reader:
        write_text("out.json", "new")
        assert reader.read() == "old" * 1000
    assert (work / "out.json").read_text() == "new"


def test_a_failed_write_leaves_the_old_file_and_no_other(work, monkeypatch):
    write_json("out.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json("out.json", {"a": object()})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text("out.json", "half of it")
    assert json.loads((work / "out.json").read_text()) == {"a": 1}
    assert [path.name for path in work.iterdir()] == ["out.json"]

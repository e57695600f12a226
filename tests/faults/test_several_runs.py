"""Several runs at once in one tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from runs import ENVIRONMENT, SMALL, equal, finish, metrics, start, trained

RUNS_AT_ONCE = 6
BEGIN = """
import sys
from d2rl.config.defaults import Config
from d2rl.common.errors import ConfigError
from d2rl.runs.run_directory import RunDirectory
print("ready", flush=True)
sys.stdin.readline()
try:
    print(RunDirectory.create(Config({key}), "some").path, flush=True)
except ConfigError as error:
    print(error, flush=True)
sys.stdin.readline()
"""


def begin_at_once(key: str, cwd: Path) -> list[str]:
    """What each of several processes says that make their run directory in the same moment, and hold it."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    command = [sys.executable, "-c", BEGIN.format(key=key)]
    processes = [subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT, **pipes) for _ in range(RUNS_AT_ONCE)]
    try:
        assert {process.stdout.readline() for process in processes} == {"ready\n"}
        for process in processes:
            process.stdin.write("\n")
        return [process.stdout.readline().strip() for process in processes]
    finally:
        for process in processes:
            process.communicate("\n", timeout=600)


def test_of_several_runs_in_one_directory_exactly_one_begins(tmp_path):
    said = begin_at_once("run_dir='a'", tmp_path)
    assert said.count("a") == 1
    assert sum("run_dir=a is in use by process" in one for one in said) == RUNS_AT_ONCE - 1


def test_several_runs_without_a_directory_get_one_each(tmp_path):
    said = begin_at_once("", tmp_path)
    assert len(set(said)) == RUNS_AT_ONCE
    assert all((tmp_path / one / "config.yaml").is_file() for one in said)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_trainings_side_by_side_do_not_touch_each_other(tmp_path):
    """The same seed twice: each must be what it would be alone."""
    processes = [start(*SMALL, "trainer.epochs=2", cwd=tmp_path) for _ in range(2)]
    for process in processes:
        status, _, err = finish(process)
        assert status == 0, err
    first, second = (tmp_path / "runs").iterdir()
    assert metrics(first) == metrics(second)
    assert len(metrics(first).splitlines()) > 3
    assert equal(trained(first / "checkpoints/last.ckpt"), trained(second / "checkpoints/last.ckpt"))

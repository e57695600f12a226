"""A run in two processes of which one is asked to end, or is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import TINY
from lightning.pytorch.plugins.environments import LightningEnvironment

from d2rl.commands import train_eval
from d2rl.common import distributed
from d2rl.common.distributed import losses_told
from d2rl.common.errors import CheckpointError, Interrupted, RunError
from d2rl.problems import load_config
from d2rl.training.checkpoint import CheckpointFiles, load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
SLEEPER = "import time; time.sleep(60)"

in_proc = pytest.mark.skipif(sys.platform != "linux", reason="finds the second process in /proc")


@contextmanager
def endless_run(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A run of two processes whose first checkpoint is written: its first process, and the number of the second."""
    endless = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.epochs=100000", "run_dir=run")
    command = [sys.executable, str(ROOT / "train.py"), *TINY, *endless]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, start_new_session=True, **pipes) as process:
        try:
            deadline = time.monotonic() + 90
            while not (folder / "run/checkpoints/last.ckpt").exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            (second,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            yield process, int(second)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@in_proc
@pytest.mark.parametrize(("sent", "whom"), [(signal.SIGINT, "both"), (signal.SIGTERM, "second")])
def test_a_signal_to_any_process_makes_all_save_and_end(tmp_path, sent, whom):
    with endless_run(tmp_path) as (process, second):
        os.kill(second, sent) if whom == "second" else os.killpg(process.pid, sent)
        _, said = process.communicate(timeout=60)  # until both have ended
    assert process.returncode == 128 + sent
    (update,) = re.findall(r"saved at update (\d+); go on with resume=run/checkpoints/last.ckpt$", said, re.M)
    saved = load_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["d2rl"]
    assert (saved["updates"], len(saved["ranks"])) == (int(update), 2)
    assert "Traceback" not in said


@pytest.mark.slow
@in_proc
@pytest.mark.parametrize("lost", ["first", "second"])
def test_a_process_that_is_killed_ends_the_others_with_one_message(tmp_path, lost):
    with endless_run(tmp_path) as (process, second):
        os.kill(process.pid if lost == "first" else second, signal.SIGKILL)
        _, said = process.communicate(timeout=60)  # until both have ended
    assert process.returncode == (-signal.SIGKILL if lost == "first" else 2)
    message, place = "run error: another process of this run has ended or is out of reach", "run/checkpoints/last.ckpt"
    assert said.count(message) == 1, said
    assert said.splitlines()[-1].startswith(message)
    assert said.endswith(f"go on with resume={place}.\n" if lost == "second" else "or begin anew.\n")
    assert "Traceback" not in said


def test_a_checkpoint_that_cannot_be_written_ends_a_run_of_several_processes(monkeypatch, tmp_path):
    monkeypatch.setattr("d2rl.training.checkpoint.world_size", lambda: 2)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"last\.ckpt cannot be written: .*make room, then resume it"):
        CheckpointFiles().save_checkpoint({"d2rl": {}}, tmp_path / "file" / "last.ckpt")


def test_one_that_waits_for_a_process_that_has_gone_says_so_and_ends_all(monkeypatch, capsys):
    monkeypatch.setattr(distributed, "GRACE", 0.0)
    monkeypatch.setattr(os, "_exit", sys.exit)  # only the exit is not real
    gone, waiting = (subprocess.Popen([sys.executable, "-c", code]) for code in ("exit(3)", SLEEPER))
    with pytest.raises(SystemExit) as stop:
        distributed._watch([gone, waiting], threading.Event())
    assert stop.value.code == 2
    assert "another process of this run has ended or is out of reach (status 3)" in capsys.readouterr().err
    assert waiting.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize("goes", [True, False])
def test_the_second_process_speaks_for_a_first_one_whose_connections_close_before_it_has_ended(monkeypatch, goes):
    parents = iter([7, 7, 7, 7])  # as it began, when the connection closes, and a little later
    monkeypatch.setattr(os, "getppid", lambda: next(parents, 1 if goes else 7))
    monkeypatch.setattr(distributed, "LAST_WORDS", 60.0 if goes else 0.05)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("d2rl.training.train.train", raising := Mock(side_effect=RunError("another process has ended")))
    config = load_config([*TINY, "trainer.devices=2", "trainer.strategy=ddp"])
    with pytest.raises(RunError if goes else SystemExit):
        train_eval._assist(config, None)
    assert raising.called


@pytest.mark.parametrize(
    ("stop", "status"),
    [(Interrupted(signal.SIGTERM, "terminated"), 143), (KeyboardInterrupt(), 130), (CheckpointError("damaged"), 2)],
)
def test_a_process_that_is_not_the_first_stops_in_silence_and_with_a_status(monkeypatch, capsys, stop, status):
    """A first process that still waits for it takes status 0 for an end in order, and would wait on."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("d2rl.training.train.train", Mock(side_effect=stop))
    with pytest.raises(SystemExit) as end:
        train_eval._assist(load_config([*TINY, "trainer.devices=2", "trainer.strategy=ddp"]), None)
    assert end.value.code == status
    assert capsys.readouterr() == ("", "")


def test_a_first_process_that_stops_leaves_none_behind(monkeypatch):
    monkeypatch.setattr(distributed, "LAST_WORDS", 0.5)
    ended, waiting = (subprocess.Popen([sys.executable, "-c", code]) for code in ("exit(3)", SLEEPER))
    ended.wait(60)
    launcher = distributed._Launcher(LightningEnvironment(), 2, 1)
    monkeypatch.setattr(launcher, "_call_children_scripts", lambda: launcher.procs.extend((ended, waiting)))
    with pytest.raises(CheckpointError):
        launcher.launch(Mock(side_effect=CheckpointError("cannot be read")))
    assert (ended.returncode, waiting.wait(60)) == (3, -signal.SIGKILL)


def test_a_mistake_of_the_program_is_not_taken_for_a_lost_process(tmp_path):
    two = load_config([*TINY, "trainer.devices=2"]).trainer
    with pytest.raises(RuntimeError, match="shapes"), losses_told(two, tmp_path):
        raise RuntimeError("shapes do not fit")
    with pytest.raises(RuntimeError, match="gloo"), losses_told(load_config([*TINY]).trainer, tmp_path):
        raise RuntimeError("[gloo/pair.cc:1] Connection closed by peer")

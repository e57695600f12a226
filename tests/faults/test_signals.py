"""Ctrl-C, SIGTERM and kill -9."""

from __future__ import annotations

import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from kill import chain, differing
from runs import SMALL, equal, finish, metrics, start, trained

from d2rl.algorithm.agent import D2RL
from d2rl.common.errors import Interrupted
from d2rl.problems import load_config
from d2rl.runs.run_directory import RunDirectory
from d2rl.training.checkpoint import load_checkpoint
from d2rl.training.train import train

PLAN = (*SMALL, "trainer.epochs=4", "stages.state=1", "evaluation.every=2")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def fit(path: Path, resume: Path | None = None):
    config = replace(load_config(list(PLAN)), run_dir=str(path), resume=str(resume) if resume else None)
    run = RunDirectory.create(config, "test")
    try:
        return train(config, run, str(resume) if resume else None)
    finally:
        run.release()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RunDirectory:
    """The run that nothing happens to."""
    return fit(tmp_path_factory.mktemp("runs") / "whole").run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("update", "number"),
    [
        (35, signal.SIGINT),
        pytest.param(24, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(75, signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_asked_to_end_saves_and_goes_on_exactly(tmp_path, monkeypatch, whole, number, update):
    """In the middle of an epoch, in its last step, and in the last step of all."""
    path, before = tmp_path / "run", [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    learn = D2RL.learn

    def asked(agent: D2RL) -> None:
        if agent.updates == update:
            signal.raise_signal(number)
        learn(agent)

    with monkeypatch.context() as patch:
        patch.setattr(D2RL, "learn", asked)
        with pytest.raises(Interrupted) as caught:
            fit(path)
    saved = -(-update // 10) * 10  # the step is finished
    assert caught.value.signal == number
    said = f"saved at update {saved}; go on with resume={path / 'checkpoints/last.ckpt'}"
    assert (said if saved < 80 else "training is complete and saved") in str(caught.value)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    assert load_checkpoint(path / "checkpoints/last.ckpt")["d2rl"]["updates"] == saved
    resumed = fit(path, path / "checkpoints/last.ckpt")
    assert metrics(path) == metrics(whole.path)
    for name in ("last.ckpt", "best.ckpt"):
        assert equal(trained(path / "checkpoints" / name), trained(whole.checkpoints / name)), name
    assert len(resumed.profiler.epochs) == 4
    assert sum(resumed.profiler.epochs) == pytest.approx(resumed.profiler.total)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_call_at_once_and_leaves_the_process_that_made_it(tmp_path, monkeypatch, number):
    """As a notebook's kernel; only a command's process is ended."""
    before, calls = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)], []

    def asked(agent: D2RL) -> None:
        calls.append(agent.updates)
        for _ in range(2):
            signal.raise_signal(number)

    monkeypatch.setattr(D2RL, "learn", asked)
    with pytest.raises(Interrupted, match="once more: ended at once") as caught:
        fit(tmp_path / "run")
    assert caught.value.signal == number
    assert calls == [0]
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    assert list((tmp_path / "run/checkpoints").iterdir()) == []


def test_ctrl_c_before_the_first_update_is_a_keyboard_interrupt_and_leaves_the_next_one_heard(tmp_path, monkeypatch):
    """Lightning would end the process, and ignore Ctrl-C from then on."""
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(D2RL, "on_fit_start", lambda agent: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(tmp_path):
    """In a step that would take longer than anyone waits here."""
    endless = (*SMALL, "trainer.updates_per_epoch=100000", "trainer.updates_per_step=100000", "trainer.epochs=1")
    process = start(*endless, "run_dir=run", cwd=tmp_path)
    for line in process.stderr:
        if line.startswith("stage reward"):
            break
    time.sleep(0.5)  # into the step
    process.send_signal(signal.SIGINT)
    for line in process.stderr:
        if line.startswith("Ctrl-C: saves and ends; once more ends at once"):
            break
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert status == 130
    assert "Traceback" not in err
    assert list((tmp_path / "run/checkpoints").iterdir()) == []


def test_sigterm_while_a_command_begins_is_one_line(tmp_path):
    """Before training there is nothing to save."""
    script = (
        "import os, signal; from d2rl.common.command_line import run\n"
        "def main(arguments):\n    os.kill(os.getpid(), signal.SIGTERM); signal.pause()\n"
        "run(main)"
    )
    (tmp_path / "main.py").write_text(script)
    status, out, err = finish(start(cwd=tmp_path, program=str(tmp_path / "main.py")))
    assert (status, out, err) == (143, "", "terminated\n")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="kill -9")
def test_a_run_that_is_killed_and_resumed_equals_one_that_is_not(tmp_path):
    """The short form of kill.py: once while a checkpoint is written, once at a random moment."""
    plan = (*SMALL, "trainer.epochs=8", "stages.state=1")
    process = start(*plan, f"run_dir={tmp_path / 'whole'}", cwd=tmp_path)
    began = time.monotonic()
    status, _, err = finish(process)
    assert status == 0, err
    moment = random.Random(0).uniform(0.3, 0.6) * (time.monotonic() - began)
    kills = chain(tmp_path / "killed", plan, [None, moment], tmp_path)
    assert "writing" in kills[0].met
    assert differing(tmp_path / "killed", tmp_path / "whole") == []

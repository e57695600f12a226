"""No network, and a dashboard that dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from runs import SMALL, finish, metrics, start

from d2rl.problems import load_config
from d2rl.runs import tracking
from d2rl.runs.run_directory import RunDirectory

ISOLATED = ("unshare", "--net", sys.executable, str(Path(__file__).with_name("isolated.py")))
REACH_OUT = """
import socket
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    try:
        socket.socket(socket.AF_INET, kind).connect(("192.0.2.1", 443))
    except OSError as error:
        print(error)
"""
PLAN = (*SMALL, "trainer.epochs=2", "logger.mode=offline", "run_dir=run")


@pytest.fixture
def isolated() -> tuple[str, ...]:
    """What to put before a command that shall have no network; it is shown to notice an attempt."""
    try:
        done = subprocess.run([*ISOLATED, sys.executable, "-c", REACH_OUT], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if done.returncode:
        pytest.skip(f"a network of its own needs root's rights: {done.stderr.strip()}")
    assert done.stdout.splitlines()[-1] == "status 0, attempts 2"
    return ISOLATED


@pytest.mark.slow
def test_the_main_job_neither_needs_nor_tries_the_network(isolated, tmp_path):
    """Not even the telemetry of W&B's library does."""
    status, out, err = finish(start(*PLAN, cwd=tmp_path, before=isolated))
    assert out.splitlines()[-1] == "status 0, attempts 0", (status, err)
    assert json.loads((tmp_path / "run/eval.json").read_text())["drops"] == 8
    assert list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))


def children(process: subprocess.Popen) -> list[tuple[int, str]]:
    """Ids and names of its child processes."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except OSError:  # it has ended meanwhile
            continue
        if fields["PPid"] == str(process.pid):
            found.append((int(fields["Pid"]), fields["Name"]))
    return found


@pytest.mark.slow
def test_a_run_outlives_the_process_of_its_dashboard(tmp_path):
    process = start(*PLAN, "trainer.epochs=8", cwd=tmp_path)
    while not (tmp_path / "run/checkpoints/last.ckpt").exists() and process.poll() is None:
        time.sleep(0.01)
    ((number, _),) = [one for one in children(process) if one[1].startswith("wandb")]
    os.kill(number, signal.SIGKILL)
    status, out, err = finish(process)
    assert status == 0, err
    assert err.count("W&B has ended") == 1
    assert "metrics.csv goes on without it" in err
    assert "Traceback" not in err
    assert "wmmse" in out
    rows = metrics(tmp_path / "run").splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["0", *(str(80 * n) for n in range(1, 17))]


@pytest.mark.slow
def test_a_dashboard_out_of_reach_is_kept_offline(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "PATIENCE", 2.0)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    config = load_config([*SMALL, "logger.mode=online", f"run_dir={tmp_path / 'run'}"])
    run = RunDirectory.create(config, "test")
    loggers = tracking.make_loggers(config, run, asdict(config))
    assert re.search(r"W&B cannot be reached \(.*\); the dashboards are kept offline", caplog.text)
    tracking.log(loggers, {"eval/sum_rate": 60.5}, 10)
    loggers[1].experiment.finish()
    (folder,) = run.wandb.glob("offline-run-*")
    assert re.search(rf"{tracking.wandb_id(loggers)}$", folder.name)

"""What the terminal says at the end."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
from dataclasses import asdict

import pytest
from rich.console import Console

from d2rl.report.terminal import wandb_notice
from d2rl.runs.run_directory import RunDirectory
from d2rl.runs.tracking import make_loggers, wandb_id


def notice(run: RunDirectory) -> str:
    text = io.StringIO()
    wandb_notice(Console(file=text, width=80), run)
    return text.getvalue()


@pytest.mark.slow
def test_the_command_to_sync_finds_every_part_of_an_offline_run(tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    config = tiny("logger.mode=offline", f"run_dir={tmp_path / 'my runs'}")
    run = RunDirectory.create(config, "test")
    identity = None
    for _ in range(2):  # the run, and the run resumed
        loggers = make_loggers(config, run, asdict(config), identity)
        identity = wandb_id(loggers)
        loggers[1].experiment.finish()
    command = notice(run).removeprefix("dashboards: ").strip()
    shown = subprocess.run(
        [
            "bash",
            "-c",
            command.replace("wandb sync", f"{shlex.quote(sys.executable)} -m wandb sync --dry-run"),
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert shown.returncode == 0, shown.stderr
    parts = list(run.wandb.glob(f"offline-run-*-{identity}"))
    assert parts
    output = "".join((shown.stdout + shown.stderr).split())
    assert all("".join(part.name.split()) in output for part in parts)


def test_without_an_offline_run_there_is_nothing_to_say(tiny, tmp_path):
    run = RunDirectory.create(tiny(f"run_dir={tmp_path / 'run'}"), "test")
    assert notice(run) == ""

"""Runs as a person starts them, for the scripts and tests of this folder."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from d2rl.training.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
CLOCK = ("seconds", "epochs", "time_to_gap")  # what a checkpoint remembers of times
SMALL = (
    *("scenario.downlink_users=3", "scenario.uplink_users=2"),
    *("scenario.transmit_antennas=4", "scenario.receive_antennas=4"),
    *("network.width=8", "network.layers=1", "ddpg.batch=8", "ddpg.replay=256", "ddpg.warmup_updates=2"),
    *("action.steps=3", "action.candidates=2", "reward.steps=2", "state.steps=3", "state.width=8"),
    *(
        "trainer.updates_per_epoch=20",
        "trainer.updates_per_step=10",
        "trainer.updates_per_slot=1",
        "trainer.num_envs=8",
    ),
    *("trainer.checkpoint_every=1", "trainer.accelerator=cpu", "trainer.progress=false"),
    *("evaluation.drops=8", "logger.mode=disabled"),
)


def start(*arguments: str, cwd: Path, program: str = "train.py", before: tuple[str, ...] = ()) -> subprocess.Popen:
    """``python train.py key=value ...`` in a new process."""
    command = [*before, sys.executable, str(ROOT / program), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT, **pipes)


def finish(process: subprocess.Popen, timeout: float = 600) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def metrics(run: Path) -> str:
    """metrics.csv without times."""
    with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    kept = [n for n, name in enumerate(rows[0]) if not name.startswith("time/")]
    return "\n".join(",".join(row[n] for n in kept) for row in rows)


def trained(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint holds, without times and places: weights, optimizers, world, replay, generators, callbacks."""
    content = load_checkpoint(checkpoint)
    callbacks = {
        name: {key: value for key, value in state.items() if key not in CLOCK}
        for name, state in content["callbacks"].items()
        if "Checkpoint" not in name
    }
    ours = {key: value for key, value in content["d2rl"].items() if key not in ("config", "wandb")}
    kept = ("state_dict", "optimizer_states", "epoch", "global_step")
    return {**{key: content[key] for key in kept}, "d2rl": ours, "callbacks": callbacks}


def equal(first: Any, second: Any) -> bool:
    """Whether two nested containers are the same to the last bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second

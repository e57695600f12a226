"""One run in two processes: the same weights in both, the world split between them, one run directory."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from lightning.pytorch.plugins.environments import LightningEnvironment

from d2rl.commands.train_eval import train_command
from d2rl.common.distributed import launch_rank, strategy
from d2rl.common.errors import CheckpointError, ConfigError
from d2rl.common.host import left_as_found
from d2rl.problems import check_config, load_config

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
EVERYTHING = (
    *("trainer.epochs=4", "trainer.num_envs=8", "ddpg.critic_batch=16", "ddpg.gamma=0.5", "action.objective=mixed"),
    *("reward.case=designed_gdm", "stages.action=0", "stages.reward=1", "stages.state=2", "reward.guard=-0.5"),
    *("chi.threshold=9", "scenario.csi_error=0.1", "scenario.priority_user=0.3"),
    *("trainer.devices=2", "trainer.strategy=ddp"),
)
# train.py that keeps what each process ends with, and breaks one loss of the second process
SCRIPT = """
import os
import sys
import torch
from d2rl.commands import train_eval as commands
from d2rl.common import command_line as cli
from d2rl.common import distributed
from d2rl.algorithm.agent import D2RL
from d2rl.training import train as training

STEERED = ("stages", "chi", "replacements_due", "fallback", "updates")
whole_train, whole_step = training.train, D2RL.step

def step(self, name, loss):
    broken = distributed.rank() == 1 and self.updates == 3 and name == "critic"
    whole_step(self, name, loss * float("nan") if broken else loss)

def train(*arguments):
    agent = whole_train(*arguments).agent
    rank = distributed.rank()
    average, largest = torch.tensor([rank, 10.0 * rank]), torch.tensor(float(rank))
    distributed.average_(average)
    distributed.largest_(largest)
    kept = {
        "weights": agent.state_dict(),
        "steered": {name: getattr(agent, name) for name in STEERED},
        "environment_steps": agent.environment_steps,
        "cells": agent.world.batch,
        "world": agent.world.state_dict(),
        "capacity": agent.replay.capacity,
        "generator": agent.generator.get_state(),
        "reduced": [average.tolist(), largest.item(), distributed.total(rank + 1, agent.device)],
        "gathered": [one["rank"] for one in distributed.gather({"rank": rank})],
    }
    torch.save(kept, f"{os.path.dirname(os.path.abspath(sys.argv[0]))}/rank-{rank}.pt")
    torch.distributed.barrier()
    sys.exit(0)  # the evaluation that follows has tests of its own

training.train, D2RL.step = train, step
cli.run(commands.train_command)
"""


def run_two(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """Train in two processes; what each of them ends with."""
    folder.mkdir()
    script = folder / "train.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, script, *arguments],
        env=ENVIRONMENT,
        cwd=folder,  # where a second run directory would appear
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # processes that wait for each other heed nothing else
        raise
    assert process.returncode == 0, output
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def ranks(folder) -> list[dict[str, Any]]:
    return run_two(folder / "whole", *TINY, *EVERYTHING, f"run_dir={folder / 'run'}")


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


@pytest.mark.slow
def test_weights_targets_and_running_moments_are_equal_in_both_processes(ranks):
    first, second = (rank["weights"] for rank in ranks)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert all(bool(tensor.isfinite().all()) for tensor in first.values())


@pytest.mark.slow
def test_every_decision_of_the_callbacks_is_the_same_in_both_processes(ranks):
    assert ranks[0]["steered"] == ranks[1]["steered"]
    assert ranks[0]["steered"]["stages"] == {"action": True, "reward": True, "state": True}
    assert ranks[0]["steered"]["chi"] > 0


@pytest.mark.slow
def test_the_world_is_split_not_doubled(ranks):
    assert [rank["cells"] for rank in ranks] == [4, 4]
    assert [rank["capacity"] for rank in ranks] == [32, 32]
    assert [rank["environment_steps"] for rank in ranks] == [16 * 8] * 2
    first, second = (set(rank["world"]["state"]["channels.downlink"].flatten().tolist()) for rank in ranks)
    assert not first & second
    assert not torch.equal(ranks[0]["generator"], ranks[1]["generator"])


@pytest.mark.slow
def test_a_loss_that_breaks_in_one_process_is_skipped_in_both(ranks, folder):
    with open(folder / "run" / "metrics.csv", newline="") as file:
        alerts = [row["charts/alert_skipped_steps"] for row in csv.DictReader(file)]
    assert [float(alert) for alert in alerts if alert] == [1.0]


@pytest.mark.slow
def test_one_run_directory_with_one_row_for_each_step(ranks, folder):
    with open(folder / "run" / "metrics.csv", newline="") as file:
        steps = [int(row["environment_steps"]) for row in csv.DictReader(file)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 16 * 8
    assert {path.name for path in (folder / "run" / "checkpoints").iterdir()} >= {"last.ckpt", "best.ckpt"}
    assert {path.name for path in (folder / "whole").iterdir()} == {"train.py", "rank-0.pt", "rank-1.pt"}


@pytest.mark.slow
def test_reductions_are_mean_maximum_sum_and_all_states_by_rank(ranks):
    assert [rank["reduced"] for rank in ranks] == [[[0.5, 5.0], 1.0, 3]] * 2
    assert ranks[0]["gathered"] == [0, 1]


@pytest.mark.slow
def test_a_resumed_run_equals_the_uninterrupted_one_in_both_processes(ranks, folder):
    checkpoint = folder / "run" / "checkpoints" / "stage-state.ckpt"
    resumed = run_two(folder / "second", f"resume={checkpoint}", f"run_dir={folder / 'resumed'}")
    for before, after in zip(ranks, resumed, strict=True):
        assert [name for name in before if not equal(before[name], after[name])] == []


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_is_not_resumed_in_one(ranks, folder):
    checkpoint = folder / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match=r"on 2 processes.*trainer\.devices x trainer\.nodes is 1"):
        train_command([f"resume={checkpoint}", "trainer.devices=1", f"run_dir={folder / 'alone'}"])


@pytest.mark.parametrize("key", ["trainer.num_envs", "ddpg.batch", "ddpg.critic_batch", "ddpg.replay"])
def test_what_cannot_be_shared_equally_is_refused(key):
    value = {"trainer.num_envs": 7, "ddpg.batch": 5, "ddpg.critic_batch": 7, "ddpg.replay": 65}[key]
    config = load_config([*TINY, "ddpg.critic_batch=8", "trainer.devices=2", f"{key}={value}"])
    with pytest.raises(ConfigError, match=rf"{key} \({value}\) must be a multiple of trainer.devices"):
        check_config(config)


def test_several_processes_keep_to_the_threads_that_are_asked_for(monkeypatch):
    """Lightning shares the cores out among them where OMP_NUM_THREADS is not set."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "1")  # there is nothing to start
    several = strategy(load_config([*TINY, "trainer.devices=2"]).trainer)
    several.cluster_environment, several.parallel_devices = LightningEnvironment(), 2 * [torch.device("cpu")]
    several._configure_launcher()
    with left_as_found(3):
        assert several.launcher.launch(torch.get_num_threads) == 3
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.fixture
def slurm(monkeypatch):
    """Variables of a Slurm job of 4 tasks: ``slurm(SLURM_NTASKS_PER_NODE=4)``."""

    def job(**more: object) -> None:
        given = {"NTASKS": 4, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "JOB_ID": 7, "JOB_NAME": "train", "NNODES": 1}
        for name, value in {**{f"SLURM_{name}": value for name, value in given.items()}, **more}.items():
            monkeypatch.setenv(name, str(value))

    return job


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_process_in_an_allocation_of_several_tasks_trains(slurm, tmp_path):
    slurm()
    train_command([*TINY, f"run_dir={tmp_path}", "trainer.epochs=1", "trainer.progress=false", "logger.mode=disabled"])
    assert (tmp_path / "eval.json").is_file()


@pytest.mark.parametrize("more", [{}, {"SLURM_NTASKS_PER_NODE": 4}, {"SLURM_NTASKS_PER_NODE": 2, "SLURM_NNODES": 2}])
def test_tasks_that_are_not_those_of_the_run_are_one_message(slurm, more):
    slurm(**more)
    with pytest.raises(
        ConfigError, match=r"trainer.devices=2 and trainer.nodes=1 are .* --nodes=1 --ntasks-per-node=2"
    ):
        launch_rank(load_config([*TINY, "trainer.devices=2"]).trainer)

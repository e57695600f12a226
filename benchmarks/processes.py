"""One training in one process and in several, on a CPU: updates per second, and what the processes exchange.

    python benchmarks/processes.py [devices=1,2,4] [updates=300] [rounds=3] [out=FILE.csv] [key=value ...]

Every point is a training of its own with ``trainer.devices`` processes of one thread, in rounds that alternate between
the points. Its first training step is left out, and so are evaluations. Batches, cells and replay are totals, so that
an update is the same whatever the number of processes. What is exchanged is counted where it is sent, and the time in
it by the clock: it is that of the message and of the wait for the slowest process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from machine import axes, cell, report
from rich.progress import track

from d2rl.common.command_line import run
from d2rl.common.distributed import launch_rank
from d2rl.common.errors import RunError
from d2rl.config.defaults import option
from d2rl.config.load import load
from d2rl.problems import load_config
from d2rl.runs.run_directory import RUNS, RunDirectory
from d2rl.training.train import train

CASES = {  # by name: what they change, and the part of the updates that they make
    "10 links": ([], 1.0),
    "10 links, batches 256": (["ddpg.batch=256", "ddpg.critic_batch=256"], 0.5),
    "40 links, batches 256": ([*cell(links=40), "ddpg.batch=256", "ddpg.critic_batch=256", "ddpg.replay=1024"], 0.2),
}
WHOLE = ("conf=full_duplex", "stages.state=0")
FIXED = (
    *("trainer.epochs=1", "trainer.accelerator=cpu", "trainer.threads=1", "trainer.progress=false"),
    *("logger.mode=disabled", "evaluation.drops=1", "evaluation.every=1000000"),
)
WORKER = "D2RL_BENCHMARK_PROCESSES"  # the folder of a training's figures, in its processes alone
COLUMNS = {
    "case": "",
    "processes": "",
    "updates / s": ".1f",
    "speedup": ".2f",
    "process ms / update": ".1f",
    "messages / update": ".2f",
    "kB / update": ".1f",
    "of the time in them": ".1%",
}


@dataclass
class ProcessesConfig:
    """What the command takes."""

    devices: str = option("1,2,4", "processes, with commas")
    updates: int = option(300, "of a training of the first case, a multiple of 10; larger ones make fewer", low=50)
    rounds: int = option(3, "trainings of each point, of which the median counts", low=1)
    out: str | None = option(None, "CSV file to write")


class Clock(Callback):
    """Seconds, process time and messages of a process, from its second training step on."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.messages: list[tuple[int, float]] = []  # bytes of each, and seconds
        self.reduce = dist.all_reduce

    def sent(self, tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        """A message, counted."""
        began = time.perf_counter()
        work = self.reduce(tensor, *arguments, **options)
        self.messages.append((tensor.nbytes, time.perf_counter() - began))
        return work

    def on_train_batch_start(self, trainer, agent, batch, batch_index) -> None:
        """Start with the second step."""
        if batch_index == 1:
            dist.all_reduce, self.updates = self.sent, agent.updates
            self.began, self.process_began = time.perf_counter(), time.process_time()

    def on_train_batch_end(self, trainer, agent, outputs, batch, batch_index) -> None:
        """Read after every step."""
        if batch_index > 0:
            self.seconds, self.process = time.perf_counter() - self.began, time.process_time() - self.process_began
            self.counted, self.made = list(self.messages), agent.updates - self.updates

    def on_train_end(self, trainer, agent) -> None:
        """Leave the figures."""
        dist.all_reduce = self.reduce
        figures = {
            "updates": self.made,
            "seconds": self.seconds,
            "process": self.process,
            "messages": len(self.counted),
            "bytes": sum(size for size, _ in self.counted),
            "waited": sum(seconds for _, seconds in self.counted),
        }
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(figures))


def processes_command(arguments: list[str]) -> None:
    """python benchmarks/processes.py [devices=1,2,4] [updates=300] [rounds=3] [out=FILE.csv] [key=value ...]

    Measures one training in one process and in several; key=value changes every training.
    """
    own = tuple(f"{name}=" for name in ProcessesConfig.__dataclass_fields__)
    asked = load([one for one in arguments if one.startswith(own)], ProcessesConfig)
    given = [one for one in arguments if not one.startswith(own)]
    points = [(name, count) for name in CASES for _, count in axes(asked, "devices", ("devices",))]
    found: dict[tuple[str, int], list[list[float]]] = {point: [] for point in points}
    for name, count in track(points * asked.rounds, "trainings", transient=True):
        changed, part = CASES[name]
        updates = max(20, round(asked.updates * part / 10) * 10)
        found[name, count].append(trained([*changed, *given, f"trainer.updates_per_epoch={updates}"], count))
    rows: list[list[Any]] = []
    first: dict[str, float] = {}
    for (name, count), figures in found.items():
        rate, *others = (statistics.median(values) for values in zip(*figures, strict=True))
        rows.append([name, str(count), rate, rate / first.setdefault(name, rate), *others])
    title = f"One training in several processes, {os.cpu_count()} cores, torch {torch.__version__}"
    report(title, COLUMNS, rows, asked.out)


def trained(given: list[str], count: int) -> list[float]:
    """Updates per second of a training, process ms, messages and kB of each process per update, share of waiting."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            __file__,
            *WHOLE,
            *given,
            *FIXED,
            f"trainer.devices={count}",
            f"run_dir={folder}/run",
        ]
        done = subprocess.run(command, env={**os.environ, WORKER: folder}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunError(f"a training of {count} processes ended with status {done.returncode}: {done.stderr[-500:]}")
        ranks = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(count)]
    updates, seconds = ranks[0]["updates"], ranks[0]["seconds"]
    process = 1e3 * sum(rank["process"] for rank in ranks) / updates
    waited = statistics.mean(rank["waited"] / rank["seconds"] for rank in ranks)
    return [updates / seconds, process, ranks[0]["messages"] / updates, ranks[0]["bytes"] / updates / 1e3, waited]


def work(arguments: list[str]) -> None:
    """The training of one process."""
    config = load_config(arguments)
    first = launch_rank(config.trainer) == 0
    directory = RunDirectory.create(config, "processes") if first else RunDirectory(RUNS)
    train(config, directory, callbacks=[Clock(Path(os.environ[WORKER]))])


if __name__ == "__main__":
    if WORKER in os.environ:
        run(work)
    else:
        run(processes_command, ProcessesConfig)

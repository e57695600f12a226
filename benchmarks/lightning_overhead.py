"""What Lightning and the profiler cost beside a plain loop that makes the same updates.

    python benchmarks/lightning_overhead.py [--updates 120] [--rounds 7]

Rounds of both alternate in one process, so that noise of the machine falls on both; the first is left out.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from d2rl.algorithm.agent import D2RL
from d2rl.common.timing import TimedSections
from d2rl.config.defaults import Config
from d2rl.problems import load_config
from d2rl.training.callbacks import GpuTimeProfiler, StagedIntegration


class Clock(Callback):
    """Process time from the first training step to the last."""

    def on_train_batch_start(self, trainer, agent, batch, batch_index) -> None:
        """Start with the first step."""
        if batch_index == 0:
            self.began = time.process_time()

    def on_train_batch_end(self, trainer, agent, outputs, batch, batch_index) -> None:
        """Read after every step."""
        self.seconds = time.process_time() - self.began


class Bare:
    """An optimizer with the face of Lightning's, and nothing else."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer
        self.param_groups, self.defaults = optimizer.param_groups, optimizer.defaults
        self.step, self.zero_grad = optimizer.step, optimizer.zero_grad


def plain_agent(config: Config, device: str | torch.device = "cpu") -> D2RL:
    """An agent on a device, in all the stages of its configuration, whose training step needs no Trainer."""
    agent = D2RL(config).to(device)
    optimizers = [Bare(optimizer) for optimizer in agent.configure_optimizers()]
    agent.optimizers = lambda: optimizers
    agent.manual_backward = lambda loss: loss.backward()
    agent.on_fit_start()
    for name in agent.stages:
        if getattr(config.stages, name) is not None:
            agent.begin_stage(name)
    return agent


def main() -> None:
    """Print medians of process time per update."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    config = load_config(["conf=full_duplex", "stages.state=null"])
    per_step = config.trainer.updates_per_step
    steps = arguments.updates // per_step
    plain, times = plain_agent(config), {"plain loop": [], "Lightning": [], "Lightning with profiler": []}
    agents = {name: D2RL(config) for name in times if name != "plain loop"}
    for _ in range(arguments.rounds + 1):
        begin = time.process_time()
        for step in range(steps):
            plain.training_step(step, step)
        plain.means.collect()
        times["plain loop"].append(time.process_time() - begin)
        for name, agent in agents.items():
            clock = Clock()
            callbacks = [StagedIntegration(config.stages), clock]
            if name.endswith("profiler"):
                callbacks.insert(0, GpuTimeProfiler())
            trainer = L.Trainer(
                max_epochs=1,
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=callbacks,
            )
            trainer.fit(agent, DataLoader(range(steps), batch_size=None))
            agent.means.collect()
            times[name].append(clock.seconds)
    medians = {name: 1e3 * statistics.median(values[1:]) / (steps * per_step) for name, values in times.items()}
    base = medians["plain loop"]
    for name, value in medians.items():
        print(f"{name:24s} {value:7.2f} ms per update  {100 * (value / base - 1):+5.1f} %")
    timed, count = TimedSections(torch.device("cpu")), 20_000
    begin = time.process_time()
    for _ in range(count):
        with timed("section"):
            pass
    cost = 1e3 * (time.process_time() - begin) / count
    print(f"one timed section        {1e3 * cost:7.2f} us; 9 an update are {100 * 9 * cost / base:.2f} % of it")


if __name__ == "__main__":
    main()

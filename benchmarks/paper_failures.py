"""The failure signatures of the paper, provoked on purpose in its own setting, and a figure of them.

    python benchmarks/paper_failures.py out=DIR [seeds=3] [only=NAMES] [key=value ...]

Writes DIR/failures.csv and DIR/failures.png; runs that are there are not run again.
"""

from __future__ import annotations

import csv
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d2rl.algorithm.rewards import raw_reward, to_scalar
from d2rl.common.command_line import run
from d2rl.config.defaults import option
from d2rl.config.load import load
from d2rl.problems import load_config
from d2rl.report.learning_curve import COLOURS, read_metrics
from d2rl.runs.run_directory import RunDirectory
from d2rl.training.train import train

EVERY = 2  # training steps between two looks at the rewards of the policy
FROZEN = 10**6  # more updates than any run makes
LEARNS = 100  # updates after which RENPNN stops to learn, where it does
REWARDS = ("stages.state=null", "reward.case=raw_gdm")
STATES = ("reward.case=raw", "stages.reward=null")
UNGUARDED = (*REWARDS, "reward.guard=-1")
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "guarded": ("guard at 0.2, RENPNN learns on", REWARDS),
    "stopped": (f"no guard, RENPNN learns for {LEARNS} updates", UNGUARDED),
    "unconstrained": (
        "the same, no penalty, critic of raw numbers",
        (*UNGUARDED, "ddpg.saturation_penalty=0", "network.critic=numbers"),
    ),
    "no_states": ("no synthetic states", (*STATES, "stages.state=null")),
    "threshold": ("chi by the threshold, M = 0.5", STATES),
    "early": (
        "chi = 0.95 at once, SENPNN untrained",
        (*STATES, "stages.state=0", "chi.policy=fixed", "chi.maximum=0.95", f"state.every={FROZEN}"),
    ),
}
STOPPED = ("stopped", "unconstrained")


@dataclass
class FailuresConfig:
    """What the command takes; keys with a dot are those of the configuration."""

    out: str = option("paper-failures", "folder of the runs, the table and the figure")
    seeds: int = option(3, "runs of each case", low=1)
    seed: int = option(0, "first seed", low=0)
    only: str | None = option(None, "cases with commas; null: all")


class RewardsOfPolicy(Callback):
    """Generated and measured reward of the policy's own actions, in bit/s/Hz of sum rate.

    :param stops: whether RENPNN stops to learn on the way
    """

    def __init__(self, stops: bool) -> None:
        self.stops = stops
        self.rows: list[tuple[int, float, float]] = []

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, agent: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        """Look at the cells as they are now, with random numbers of its own."""
        if self.stops and agent.updates >= LEARNS:
            agent.config.reward.every = FROZEN
        if batch_index % EVERY:
            return
        problem, state = agent.world.problem, agent.world.state
        numbers = torch.Generator(agent.device).manual_seed(agent.updates)
        seen = problem.observe(state)
        action = agent.propose(seen, 1, numbers)
        decision = problem.decode(seen, action)
        made = agent.renpnn.generate(seen, agent.view(seen, action, decision), 16, numbers)
        measured = raw_reward(problem.measure(state, decision), seen)
        scale = agent.config.ddpg.reward_scale
        self.rows.append((agent.updates, float(to_scalar(made, seen.weights).mean() * scale), float(measured.mean())))


def failures_command(arguments: list[str]) -> None:
    """python benchmarks/paper_failures.py out=DIR [seeds=3] [only=NAMES] [key=value ...]"""
    rest = [one for one in arguments if "." in one.partition("=")[0]]
    asked = load([one for one in arguments if one not in rest], FailuresConfig)
    out, names = Path(asked.out), list(CASES) if asked.only is None else asked.only.split(",")
    for seed in range(asked.seed, asked.seed + asked.seeds):
        for name in names:
            folder = out / f"{name}-{seed}"
            if not (folder / "rewards.csv").exists():
                trained(name, folder, [*rest, f"seed={seed}"])
    write_table(out)
    draw(out)


def trained(name: str, folder: Path, overrides: list[str]) -> None:
    """One run of a case, with rewards.csv beside its metrics.csv."""
    found = RewardsOfPolicy(name in STOPPED)
    settings = [*CASES[name][1], *overrides, f"run_dir={folder}", "logger.mode=disabled", "trainer.progress=false"]
    config = load_config(["conf=paper", *settings])
    train(config, RunDirectory.create(config, name), callbacks=[found])
    with open(folder / "rewards.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("updates", "generated", "measured"), *found.rows])


def of(out: Path, name: str) -> list[Path]:
    """Folders of the finished runs of a case."""
    return sorted(path.parent for path in out.glob(f"{name}-[0-9]*/rewards.csv"))


def write_table(out: Path) -> None:
    """failures.csv: the end of each run, and the largest loss of its critic after the first tenth of it."""
    rows = []
    for name, (title, _) in CASES.items():
        for folder in of(out, name):
            looks = read_metrics(folder / "rewards.csv", "updates", "generated", "measured")
            ends = read_metrics(folder / "metrics.csv", "eval/gap_closed", "eval/downlink_rate", "eval/uplink_rate")
            losses = [loss for (loss,) in read_metrics(folder / "metrics.csv", "losses/critic")]
            gap, down, up = ends[-1]
            made, had = (statistics.fmean(look[which] for look in looks[-5:]) for which in (1, 2))
            row = {"case": title, "seed": folder.name.rpartition("-")[2], "gap_closed": gap, "downlink": down}
            row |= {"uplink": up, "generated": made, "measured": had, "critic_loss": losses[-1]}
            rows.append(row | {"critic_loss_worst": max(losses[len(losses) // 10 :])})
    with open(out / "failures.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def draw(out: Path) -> None:
    """failures.png: rewards of the policy on the left, gap closed on the right, over updates; one line a seed."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, name in zip(COLOURS, ("guarded", "stopped", "unconstrained"), strict=False):
        for folder in of(out, name):
            updates, made, had = zip(
                *read_metrics(folder / "rewards.csv", "updates", "generated", "measured"), strict=True
            )
            left.plot(updates, had, color=colour, linewidth=1.2)
            left.plot(updates, made, color=colour, linewidth=1.0, linestyle=":")
        left.plot([], [], color=colour, label=CASES[name][0])
    for colour, name in zip(COLOURS, ("no_states", "threshold", "early"), strict=False):
        for folder in of(out, name):
            updates, gaps = zip(*read_metrics(folder / "metrics.csv", "charts/updates", "eval/gap_closed"), strict=True)
            right.plot(updates, gaps, color=colour, linewidth=1.2)
        right.plot([], [], color=colour, label=CASES[name][0])
    finish(left, "reward of the policy, bit/s/Hz", "Reward hacking: measured (solid), generated (dotted)")
    finish(right, "gap closed", "Synthetic states too many too early")
    figure.savefig(out / "failures.png", dpi=150)


def finish(axes: Axes, label: str, title: str) -> None:
    """Labels of a panel."""
    axes.set(xlabel="updates", ylabel=label, title=title)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.2)


if __name__ == "__main__":
    run(failures_command, None)

"""What synthetic states are worth to a plain network that has few real ones: SENPNN beside its controls.

    python benchmarks/state_sources.py bank=site{seed}.pt [seeds=5] [seed=0] [states=20] [updates=600] [out=DIR]
                                       [only=NAMES] [key=value ...]

Every source trains the same policy by the analytic gradient (conf/site.yaml) for the same number of updates. States of
the bank that are kept for evaluation judge it, beside training on all other states of the bank (``endless``).
"""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_overhead import plain_agent
from rich.console import Console
from rich.progress import track

from d2rl.algorithm.agent import D2RL
from d2rl.common.command_line import run
from d2rl.config.defaults import option
from d2rl.config.load import load
from d2rl.problems import load_config

BEGIN = 0.2  # share of the updates after which synthetic states begin
SOURCES = {
    "endless": ["scenario.stored_states=0", "stages.state=null"],
    "same states": ["stages.state=null"],
    "turn": ["state.explorer=turn"],
    "noise": ["state.explorer=noise", "state.corrupt=1"],
    "mix": ["state.explorer=mix"],
    "gaussian": ["state.explorer=gaussian"],
    "senpnn": ["state.explorer=senpnn"],
}


@dataclass
class SourcesConfig:
    """What the command takes; keys with a dot are those of the configuration."""

    bank: str | None = option(None, "channel bank of one site; {seed} in its name is the seed of a run")
    seeds: int = option(5, "runs of each source", low=1)
    seed: int = option(0, "first seed: of weights, exploration and the states that are stored", low=0)
    states: int = option(20, "real states to train on", low=2)
    updates: int = option(600, "of the policy", low=10)
    only: str | None = option(None, "sources with commas; null: all")
    out: str | None = option(None, "folder for sources.csv")


def sources_command(arguments: list[str]) -> None:
    """python benchmarks/state_sources.py bank=site{seed}.pt [seeds=5] [seed=0] [states=20] [updates=600] [out=DIR]"""
    rest = [one for one in arguments if "." in one.partition("=")[0]]
    asked = load([one for one in arguments if one not in rest], SourcesConfig)
    names = list(SOURCES) if asked.only is None else asked.only.split(",")
    runs = [(asked.seed + i, name) for i in range(asked.seeds) for name in names]
    rows, console = [], Console()
    for seed, name in track(runs, "runs", transient=True):
        torch.manual_seed(seed)
        plan = [
            f"scenario.stored_states={asked.states}",
            "trainer.epochs=1",
            f"trainer.updates_per_epoch={asked.updates}",
        ]
        config = load_config(
            [
                "conf=site",
                f"scenario.channel_bank={str(asked.bank).format(seed=seed)}",
                *plan,
                *SOURCES[name],
                f"seed={seed}",
                *rest,
            ]
        )
        start = time.process_time()
        agent = trained(plain_agent(config, torch.device("cpu")), asked.updates)
        rows.append({"seed": seed, "source": name, "states": asked.states, "updates": asked.updates, **judged(agent)})
        rows[-1]["cpu_s"] = round(time.process_time() - start, 1)
        console.print(rows[-1], soft_wrap=True)
    for name in names:
        reached = [row["sum_rate"] for row in rows if row["source"] == name]
        low, high = np.quantile(np.random.default_rng(0).choice(reached, (4000, len(reached))).mean(1), [0.025, 0.975])
        console.print(f"{name:12} {np.mean(reached):6.2f} [{low:.2f}, {high:.2f}]")
    if asked.out:
        folder = Path(asked.out)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "sources.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


def trained(agent: D2RL, updates: int) -> D2RL:
    """The agent after that many updates, with synthetic states after the first fifth of them."""
    each = agent.config.trainer.updates_per_step
    for step in range(updates // each):
        agent.chi = agent.config.chi.maximum if step * each >= BEGIN * updates else 0.0
        agent.training_step(None, step)
    return agent


@torch.no_grad()
def judged(agent: D2RL) -> dict[str, float]:
    """Sum rate on the states kept for evaluation, and what WMMSE reaches there, bit/s/Hz."""
    problem, config = agent.problem, agent.config.evaluation
    state = problem.frozen(config.drops, config.seed, "cpu")
    seen = problem.observe(state)
    action = agent.propose(seen, 1, torch.Generator().manual_seed(0))
    own, reference = problem.decode(seen, action), problem.references()["wmmse"](state)
    return {
        name: round(float(problem.measure(state, decision).sum(-1).mean()), 4)
        for name, decision in (("sum_rate", own), ("wmmse", reference))
    }


if __name__ == "__main__":
    run(sources_command, SourcesConfig)

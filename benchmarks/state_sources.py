"""What synthetic states are worth to a plain network that has few real ones: SENPNN beside its controls.

    python benchmarks/state_sources.py bank=site{seed}.pt [seeds=5] [seed=0] [states=20] [updates=600] [out=DIR]
                                       [only=NAMES] [key=value ...]

Every source trains the same policy by the analytic gradient (conf/site.yaml) for the same number of updates. States of
the bank that are kept for evaluation judge it, beside training on all other states of the bank (``endless``).
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_overhead import plain_agent
from rich.console import Console
from rich.progress import track

from d2rl.algorithm.agent import D2RL
from d2rl.common.command_line import run
from d2rl.common.errors import ConfigError
from d2rl.config.defaults import option
from d2rl.config.load import load
from d2rl.config.schema import either
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
class Comparison:
    """What a comparison of sources takes; keys with a dot are those of the configuration."""

    seeds: int = option(5, "runs of each source", low=1)
    seed: int = option(0, "first seed: of the place, weights, exploration and the states that are stored", low=0)
    states: int = option(20, "real states to train on, where they are few", low=2)
    updates: int = option(600, "of the policy", low=10)
    only: str | None = option(None, "sources with commas; null: all")
    out: str | None = option(None, "folder for the CSV file")


@dataclass
class SourcesConfig(Comparison):
    """With the bank."""

    bank: str | None = option(None, "channel bank of one site; {seed} in its name is the seed of a run")


def sources_command(arguments: list[str]) -> None:
    """python benchmarks/state_sources.py bank=site{seed}.pt [seeds=5] [seed=0] [states=20] [updates=600] [out=DIR]"""
    compare(arguments, SourcesConfig, SOURCES, measured, "sum_rate", digits=2, file="sources.csv")


def measured(asked: SourcesConfig, seed: int, given: list[str]) -> dict[str, Any]:
    """One run of a source."""
    bank = f"scenario.channel_bank={str(asked.bank).format(seed=seed)}"
    plan = [f"scenario.stored_states={asked.states}", "trainer.epochs=1", f"trainer.updates_per_epoch={asked.updates}"]
    config = load_config(["conf=site", bank, *plan, f"seed={seed}", *given])
    start = time.process_time()
    agent = trained(plain_agent(config, torch.device("cpu")), asked.updates)
    found = {"states": asked.states, "updates": asked.updates, **judged(agent)}
    return found | {"cpu_s": round(time.process_time() - start, 1)}


def compare(
    arguments: list[str],
    kind: type[Any],
    sources: Mapping[str, list[str]],
    measured: Callable[[Any, int, list[str]], dict[str, Any]],
    metric: str,
    digits: int,
    file: str,
) -> None:
    """Run every source from every seed, print means with bootstrap intervals, and write one row for each run.

    :param arguments: of the command
    :param kind: what it takes, a :class:`Comparison`
    :param sources: keys of each, by name
    :param measured: from what was asked, the seed and keys to one run's numbers
    :param metric: one of these numbers, printed with so many digits
    :param file: its name in the folder ``out``
    :raises ConfigError: ``only`` names a source that is none
    """
    rest = [one for one in arguments if "." in one.partition("=")[0]]
    asked = load([one for one in arguments if one not in rest], kind)
    names = list(sources) if asked.only is None else asked.only.split(",")
    for name in names:
        if name not in sources:
            raise ConfigError(f"only={asked.only}: {name} is no source; they are {either(sources)}.")
    runs = [(asked.seed + i, name) for i in range(asked.seeds) for name in names]
    rows, console = [], Console()
    for seed, name in track(runs, "runs", transient=True):
        torch.manual_seed(seed)
        rows.append({"seed": seed, "source": name, **measured(asked, seed, [*sources[name], *rest])})
        console.print(rows[-1], soft_wrap=True)
    for name in names:
        reached = [row[metric] for row in rows if row["source"] == name]
        low, high = np.quantile(np.random.default_rng(0).choice(reached, (4000, len(reached))).mean(1), [0.025, 0.975])
        console.print(f"{name:12} {np.mean(reached):{digits + 4}.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
    if asked.out:
        folder = Path(asked.out)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / file, "w", newline="") as opened:
            writer = csv.DictWriter(opened, rows[0])
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

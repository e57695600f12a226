"""Objectives of published diffusion and flow policies beside AENPNN's own, on equal terms, where Q is known.

    python benchmarks/action_objectives.py [place=cell] [objectives=NAMES] [updates=400] [seeds=5] [out=FILE.csv]

``place=modes`` is the Q of benchmarks/modes.py, with 2, 4 and 8 equally good modes. ``place=cell`` is the default cell,
whose rate in closed form is Q, so that no critic errs. All objectives have the same network, learning rates, number of
updates and, but for the package's default, about 16 questions to Q for each state and update. Each chooses among four
settings in shorter trainings, on another seed and other drops, and is then trained anew.
"""

from __future__ import annotations

import csv
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from action_losses import Update, dacer2, deterministic, dpmd, flow, packaged, qvpo, sdac
from action_places import Cell, Modes
from torch import Tensor

from d2rl.common.command_line import run
from d2rl.common.errors import ConfigError
from d2rl.config.defaults import AENPNNConfig, DDPGConfig, option
from d2rl.config.load import load

FIRST_TUNING_SEED = 100
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5 % quantile for so many seeds
Setting = dict[str, Any]


@dataclass
class ObjectivesConfig:
    """What the command takes."""

    place: str = option("cell", "where Q is known", choices=("cell", "modes"))
    objectives: str | None = option(None, "names with commas; null: all")
    updates: int = option(400, "of each training", low=1)
    seeds: int = option(5, "trainings with a chosen setting, from seed 0", low=2, high=5)
    tuning_seeds: int = option(1, "trainings with each setting, from seed 100", low=1)
    tuning_updates: int = option(200, "of each of these", low=1)
    drops: int = option(256, "drops of evaluation.seed=0 in the cell", low=1)
    tuning_drops: int = option(64, "drops of evaluation.seed=77 in the cell, for the choice of settings", low=1)
    out: str | None = option(None, "CSV file to write: every training")


@dataclass(frozen=True)
class Objective:
    """An objective, and the settings among which it chooses.

    :param settings: arguments of ``loss``; of the package's own objectives, fields of AENPNNConfig
    :param steps: P
    """

    settings: list[Setting]
    loss: Callable[..., Tensor] = packaged
    steps: int = 6


def grid(**values: Any) -> list[Setting]:
    """Every combination of values; what is no tuple is the same in all."""
    given = [value if isinstance(value, tuple) else (value,) for value in values.values()]
    return [dict(zip(values, one, strict=True)) for one in product(*given)]


MEASURED = (0.1, 0.2, 0.5, 2.0)  # temperatures in standard deviations of the candidates of a state
BROAD = (0.1, 0.2, 0.3, 0.5)  # those of even candidates
EVEN = (0.02, 0.1)  # in those of even actions
OBJECTIVES = {
    "deterministic": Objective([{}], deterministic),
    "chain": Objective([{"samples": 2}, *grid(samples=16, temperature=(0.2, 0.5, 2.0))]),
    "chain-8": Objective([{"samples": 8}]),  # as many draws as dacer2, at the default temperature
    "modes": Objective(grid(objective="mixed", samples=(2, 8), candidates=8, temperature=(0.2, 0.5))),
    "weighted": Objective(grid(objective="weighted", candidates=16, temperature=MEASURED)),
    **{
        f"flow-{steps}": Objective(grid(objective="flow", steps=steps, samples=16, temperature=BROAD))
        for steps in (1, 2, 6)
    },
    **{
        f"flow-{steps}-unpaired": Objective(grid(draws=16, temperature=BROAD, broad=True, near=False), flow, steps)
        for steps in (2, 6)
    },
    **{
        f"fpmd-{steps}": Objective(
            grid(draws=16, temperature=(0.05, 0.2), broad=False, near=(False, True)), flow, steps
        )
        for steps in (1, 2)
    },
    "qvpo": Objective(grid(draws=16, entropy=(0.005, 0.02, 0.1, 0.3)), qvpo),
    "dacer2": Objective(grid(draws=8, field=(0.05, 0.5, 2.0, 10.0)), dacer2),
    "sdac": Objective(grid(draws=16, temperature=EVEN, broad=(False, True)), sdac),
    "dpmd": Objective(grid(draws=16, temperature=EVEN, explore=(False, True)), dpmd),
}


def objectives_command(arguments: list[str]) -> None:
    """python benchmarks/action_objectives.py [place=cell] [objectives=NAMES] [updates=400] [seeds=5] [out=FILE.csv]

    Trains AENPNN with published objectives and with its own where Q is known, and compares what they learn.
    """
    asked = load(arguments, ObjectivesConfig)
    torch.set_num_threads(1)
    place = Cell(asked.drops, asked.tuning_drops) if asked.place == "cell" else Modes(DDPGConfig())
    names = asked.objectives.split(",") if asked.objectives else [n for n in OBJECTIVES if suits(n, asked.place)]
    for name in names:
        if name not in OBJECTIVES or not suits(name, asked.place):
            raise ConfigError(f"objectives: {name} is not one for {asked.place}; choose of {', '.join(OBJECTIVES)}.")
    rows: list[dict[str, Any]] = []
    columns = [*place.columns, "cpu_s"]
    print(f"| objective | setting | {' | '.join(columns)} |\n|---|---|{'---:|' * len(columns)}", flush=True)
    for name in names:
        found = compare(place, name, asked)
        rows += found
        told = [row for row in found if not row["tuning"]]
        cells = [interval([row[column] for row in told]) for column in columns]
        print(f"| {name} | {told[0]['setting']} | {' | '.join(cells)} |", flush=True)
        if asked.out is not None:
            write(Path(asked.out).expanduser(), rows)


def suits(name: str, place: str) -> bool:
    """Whether an objective has a part in a comparison: one answer cannot be several modes."""
    return place == "cell" or name != "deterministic"


def compare(place: Any, name: str, asked: ObjectivesConfig) -> list[dict[str, Any]]:
    """One row for each training of an objective: those with every setting, and then those with the best of them."""
    objective, rows = OBJECTIVES[name], []

    def trained(setting: Setting, seed: int, tuning: bool) -> float:
        updates = asked.tuning_updates if tuning else asked.updates
        network, seconds = train(place, objective, setting, seed, updates)
        told = " ".join(f"{key}={value}" for key, value in setting.items())
        row = {"objective": name, "setting": told, "tuning": tuning, "seed": seed, "updates": updates}
        rows.append(row | place.judge(network, tuning) | {"cpu_s": seconds})
        return rows[-1][place.criterion]

    def mean(setting: Setting) -> float:
        seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + asked.tuning_seeds)
        return statistics.mean(trained(setting, seed, True) for seed in seeds)

    best = objective.settings[0] if len(objective.settings) == 1 else max(objective.settings, key=mean)
    for seed in range(asked.seeds):
        trained(best, seed, False)
    return rows


def train(place: Any, objective: Objective, setting: Setting, seed: int, updates: int) -> tuple[Any, float]:
    """A trained network, and the seconds of processor time of its updates, those of new states included."""
    torch.manual_seed(seed)
    ddpg, own, generator = place.ddpg, objective.loss is packaged, torch.Generator().manual_seed(seed)
    kind = "flow" if objective.loss is flow else "chain"  # of its path
    config = AENPNNConfig(**setting) if own else AENPNNConfig(objective=kind, steps=objective.steps)
    policy = place.network(None if objective.loss is deterministic else config)
    unit = Update(place.states(generator), place.value, 1.0, 0.0, generator).spread_of_even()
    optimizer = torch.optim.Adam(policy.parameters(), lr=ddpg.actor_rate, fused=True)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates, ddpg.rate_end * ddpg.actor_rate)
    begin = time.process_time()
    for number in range(updates):
        noise = ddpg.noise + (ddpg.noise_end - ddpg.noise) * number / updates
        update = Update(place.states(generator), place.value, unit, noise, generator)
        loss = objective.loss(policy, update, **({} if own else setting))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    return policy.eval(), time.process_time() - begin


def interval(values: list[float]) -> str:
    """Mean and half of its 95 % interval."""
    half = STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.3f} ± {half:.3f}"


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """One row for each training."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{of:.4f}" if isinstance(of, float) else of for key, of in row.items()})


if __name__ == "__main__":
    run(objectives_command, ObjectivesConfig)

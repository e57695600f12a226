"""Environment steps per second: a slot of every cell, the rates of one action in each, and a slot of cells with queues
whose decision is at hand; growth with their size.

    python benchmarks/environment.py [device=auto] [threads=1] [only=cells,users,antennas] [out=FILE.csv]

A step is one slot of one cell. FLOPs and bytes are counted as :class:`machine.Work` says, and compared with the limits
that were measured just before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from machine import Measurement, Work, axes, cell, measure, medians, report
from rich.progress import track

from d2rl.common.command_line import run
from d2rl.config.defaults import option
from d2rl.config.load import load
from d2rl.problems import load_config
from d2rl.problems.base import Simulation
from d2rl.problems.full_duplex.env import FullDuplexEnv
from d2rl.problems.traffic.problem import TrafficProblem
from d2rl.problems.traffic.settings import TrafficConfig

AXES = ("cells", "users", "antennas")
COLUMNS = {
    "axis": "",
    "value": "",
    "steps": "",
    "steps / s": ",.0f",
    "us / step": ".2f",
    "growth": ".2f",
    "operators": ".0f",
    "kFLOP": ".1f",
    "kB": ".1f",
    "of matrix rate": ".1%",
    "of bandwidth": ".1%",
}


@dataclass
class EnvironmentConfig(Measurement):
    """What the command takes."""

    only: str = option(",".join(AXES), "axes, with commas")
    cells: str = option("64,1024,4096", "cells side by side")
    users: str = option("10,40,160", "links, six of ten downlink")
    antennas: str = option("8,16,32,64", "antennas in each direction")
    fixed: int = option(64, "cells, while users or antennas grow", low=1)


def environment_command(arguments: list[str]) -> None:
    """python benchmarks/environment.py [device=auto] [threads=1] [only=cells,users,antennas] [out=FILE.csv]

    Measures environment steps per second along each axis, without and with an action decoded and measured.
    """
    asked = load(arguments, EnvironmentConfig)
    points, rows, first = axes(asked, asked.only, AXES), [], {}
    machine = measure(asked)
    for axis, value in track(points, "points", transient=True):
        count = value if axis == "cells" else asked.fixed
        config = load_config([] if axis == "cells" else cell(**{"links" if axis == "users" else axis: value}))
        env = FullDuplexEnv(config.scenario, count, 0, machine.device)
        action = torch.zeros(count, env.action_size, device=machine.device)

        def step(env: FullDuplexEnv = env, action: torch.Tensor = action) -> None:
            env.measure(env.state, action)
            env.advance()

        queues = TrafficProblem(TrafficConfig(), config.scenario).endless()
        world = Simulation(queues, count, 0, machine.device)
        decision = queues.decode(queues.observe(world.state), action.unsqueeze(1))

        def served(world: Simulation = world, decision: Any = decision) -> None:
            world.step(decision)

        subjects = {"advance": env.advance, "advance + measure": step, "slot with queues": served}
        times = medians(subjects, asked.rounds, asked.seconds, machine.device)
        for name, subject in subjects.items():
            with Work() as work:
                subject()
            seconds = times[name] / count
            growth = seconds / first.setdefault((axis, name), seconds)
            counts = (work.operators, work.flops / count / 1e3, work.bytes / count / 1e3)
            shares = machine.shares(work, times[name])
            rows.append([axis, str(value), name, 1 / seconds, 1e6 * seconds, growth, *counts, *shares])
    report(f"Environment steps per second, {machine}", COLUMNS, rows, asked.out)


if __name__ == "__main__":
    run(environment_command, EnvironmentConfig)

"""Environment steps per second: a slot of every cell, and the rates of one action in each.

python benchmarks/environment.py [--envs 64 1024 4096] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table

from d2rl.envs import FullDuplexConfig, FullDuplexEnv


def median_seconds(function, repeats: int) -> float:
    """Median duration of a call, two warm-up calls left out."""
    times = []
    for repeat in range(repeats + 2):
        begin = time.perf_counter()
        function()
        if repeat >= 2:
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> None:
    """Print steps per second for each number of cells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--envs", type=int, nargs="+", default=[64, 1024, 4096])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table("cells", "advance (steps/s)", "advance + measure (steps/s)", title=f"{arguments.threads} thread(s)")
    for count in arguments.envs:
        env = FullDuplexEnv(FullDuplexConfig(), count, seed=0)
        action = torch.zeros(count, env.action_size)
        only = count / median_seconds(env.advance, arguments.repeats)
        both = count / median_seconds(lambda env=env, action=action: env.step(action), arguments.repeats)
        table.add_row(str(count), f"{only:,.0f}", f"{both:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()

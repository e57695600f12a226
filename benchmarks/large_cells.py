"""How the encoder of a cell grows with its links, messages block by block beside all messages at once.

    python benchmarks/large_cells.py [links=10,40,160,320,640] [pairs=100000] [threads=1] [out=FILE.csv]

As many states as make up about ``pairs`` pairs of links, and one at least, so that every row has as much to do. Both
ways alternate in one process; times are process time on a CPU, the least of the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from machine import Measurement, axes, report

from d2rl.algorithm.networks import exchange
from d2rl.algorithm.networks.link_graph import LinkGraphEncoder
from d2rl.common.command_line import run
from d2rl.config.defaults import option
from d2rl.config.load import load
from d2rl.problems.base import Layout, Observation, Sizes

COLUMNS = {
    "links": "",
    "states": "",
    "decision, blocks (ms)": ".1f",
    "at once (ms)": ".1f",
    "update, blocks (ms)": ".1f",
    "update, at once (ms)": ".1f",
    "ns / pair, blocks": ".0f",
    "ns / pair, at once": ".0f",
}
SIZES = Sizes(nodes=7, edges=4, view=2, flat=1)
ALL = {"cpu": 1 << 60}  # a block that holds everything


@dataclass
class LargeCellsConfig(Measurement):
    """What the command takes."""

    links: str = option("10,40,160,320,640", "links of a cell, with commas")
    pairs: int = option(100_000, "pairs of links in all states of a row together", low=1)
    rounds: int = option(4, "rounds, of which the least time counts", low=1)
    width: int = option(32, "size of an embedding", low=1)


def large_cells_command(arguments: list[str]) -> None:
    """python benchmarks/large_cells.py [links=10,40,160,320,640] [pairs=100000] [threads=1] [out=FILE.csv]

    Measures the encoder's time along the number of links.
    """
    asked, rows = load(arguments, LargeCellsConfig), []
    torch.set_num_threads(asked.threads)
    encoder, blocks = LinkGraphEncoder(SIZES, asked.width, layers=2), exchange.BLOCK
    for _, links in axes(asked, "links", ("links",)):
        states = max(1, asked.pairs // links**2)
        observation = seen(states, links)

        def update(observation: Observation = observation) -> None:
            encoder.zero_grad()
            encoder(observation).sum().backward()

        def decision(observation: Observation = observation) -> None:
            with torch.inference_mode():
                encoder(observation)

        times = []
        for work in (decision, update):
            least = [float("inf")] * 2
            for _ in range(asked.rounds):
                for index, block in enumerate((blocks, ALL)):
                    exchange.BLOCK = block
                    least[index] = min(least[index], seconds(work))
            exchange.BLOCK = blocks
            times += [1e3 * value for value in least]
        per_pair = [1e6 * value / (states * links**2) for value in times[2:]]
        rows.append([str(links), str(states), *times, *per_pair])
    report(f"The encoder of a cell, width {asked.width}, torch {torch.__version__}", COLUMNS, rows, asked.out)


def seen(states: int, links: int) -> Observation:
    """States with features at random."""
    generator = torch.Generator().manual_seed(0)
    nodes = torch.randn(states, links, SIZES.nodes, generator=generator)
    edges = torch.randn(states, links, links, SIZES.edges, generator=generator)
    return Observation(nodes, edges, nodes[..., 0], nodes[..., 0], None, Layout((links,), (2,)))


def seconds(work: Callable[[], None]) -> float:
    """Process time of a call."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    run(large_cells_command, LargeCellsConfig)

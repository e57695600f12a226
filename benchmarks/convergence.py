"""What acceleration saves WMMSE: ``python benchmarks/convergence.py [--drops 64]``.

Sum rate on evaluation drops of the default cell after so many iterations from RZF: of WMMSE, of priced steps, and of
priced steps extrapolated as in ``converged_wmmse``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.full_duplex.simulator import evaluation_states
from d2rl.wireless import converged_wmmse, full_uplink_power, link_rates, rzf, wmmse
from d2rl.wireless.priced_step import priced_step

ITERATIONS = (10, 50, 100, 200, 1000)


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drops", type=int, default=64)
    drops = parser.parse_args().drops
    torch.set_num_threads(1)
    channels = evaluation_states(FullDuplexConfig(), drops, 0, "cpu").channels

    def priced(iterations: int) -> tuple[Tensor, Tensor]:
        weights = torch.ones(drops, channels.links, dtype=torch.float64)
        precoder, amplitude = rzf(channels).to(torch.complex128), full_uplink_power(channels).double()
        for _ in range(iterations):
            _, precoder, amplitude = priced_step(channels.double(), precoder, amplitude, weights)
        return precoder.to(torch.complex64), amplitude.square().float()

    methods: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {
        "WMMSE": lambda iterations: wmmse(channels, iterations),
        "priced steps": priced,
        "priced steps, extrapolated": lambda iterations: converged_wmmse(channels, limit=iterations),
    }
    print(f"| iterations | {' | '.join(map(str, ITERATIONS))} |\n|---|{'---:|' * len(ITERATIONS)}")
    for name, method in methods.items():
        cells = []
        for iterations in ITERATIONS:
            begin = time.process_time()
            rate = link_rates(channels, *method(iterations)).sum(-1).mean().item()
            cells.append(f"{rate:.2f} ({time.process_time() - begin:.1f} s)")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

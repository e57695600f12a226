"""How many link decisions per second the physics rates, decodes and optimises.

A decision is a precoder and the uplink powers of one state of the default scenario (6 + 4 users,
8 + 8 antennas). Times are medians of repeats after a warm-up, on the CPU::

    python benchmarks/link_rates.py [--batch 4096] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from d2rl.common.errors import counted
from d2rl.wireless import ChannelState, StructuredHead, full_uplink_power, link_rates, rzf, wmmse
from d2rl.wireless.fading import complex_normal, rician, scale
from d2rl.wireless.propagation import LinkBudget, thermal_noise, user_positions

DOWNLINK_USERS, UPLINK_USERS, ANTENNAS = 6, 4, 8
WMMSE_ITERATIONS = 200
WMMSE_SHARE = 16  # WMMSE gets a sixteenth of the batch


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description="Link decisions per second on the CPU.")
    parser.add_argument("--batch", type=int, default=4096, help="states at a time (WMMSE: a sixteenth of them)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=15, help="timed repeats (WMMSE: a fifth of them)")
    options = parser.parse_args()
    if min(options.batch, options.threads, options.repeats) < 1:
        parser.error("--batch, --threads and --repeats must be 1 or more")
    torch.set_num_threads(options.threads)

    channels = draw_channels(options.batch)
    few = channels[: max(1, options.batch // WMMSE_SHARE)]
    head = StructuredHead()
    action = 2 * torch.rand(channels.batch, head.layout.size(channels), generator=torch.Generator().manual_seed(1)) - 1
    decision = rzf(channels), full_uplink_power(channels)
    subjects: list[tuple[str, int, int, Callable[[], object]]] = [
        ("link_rates", channels.batch, options.repeats, lambda: link_rates(channels, *decision)),
        (
            "StructuredHead.decode + link_rates",
            channels.batch,
            options.repeats,
            lambda: link_rates(channels, *head.decode(channels, action)),
        ),
        (
            f"wmmse, {WMMSE_ITERATIONS} iterations",
            few.batch,
            max(1, options.repeats // 5),
            lambda: wmmse(few, iterations=WMMSE_ITERATIONS),
        ),
    ]

    table = Table(
        title=f"Link decisions per second, {counted(options.threads, 'CPU thread')}, torch {torch.__version__}"
    )
    table.add_column("")
    for heading in ("batch", "ms / batch", "us / decision", "decisions / s"):
        table.add_column(heading, justify="right")
    for name, batch, repeats, subject in subjects:
        seconds = median_seconds(subject, repeats)
        table.add_row(
            name, f"{batch}", f"{1e3 * seconds:.1f}", f"{1e6 * seconds / batch:.1f}", f"{batch / seconds:,.0f}"
        )
    Console().print(table)


def median_seconds(subject: Callable[[], object], repeats: int) -> float:
    """Median wall-clock time of ``subject`` after one run that does not count."""
    with torch.inference_mode():
        subject()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            subject()
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def draw_channels(batch: int) -> ChannelState:
    """Independent drops of the default scenario."""
    device, generator = torch.device("cpu"), torch.Generator().manual_seed(0)
    budget = LinkBudget(
        bs_power=26.0,
        user_power=23.0,
        noise_downlink=thermal_noise(10.0, -174.0, 9.0),
        noise_uplink=thermal_noise(10.0, -174.0, 5.0),
        self_interference=-90.0,
        path_loss="los",
    )
    gains = budget.gains(
        user_positions(batch, DOWNLINK_USERS, 100.0, 10.0, generator, device),
        user_positions(batch, UPLINK_USERS, 100.0, 10.0, generator, device),
    )
    small = ChannelState(
        downlink=complex_normal((batch, DOWNLINK_USERS, ANTENNAS), generator, device),
        uplink=complex_normal((batch, UPLINK_USERS, ANTENNAS), generator, device),
        cross=complex_normal((batch, UPLINK_USERS, DOWNLINK_USERS), generator, device),
        self_interference=rician(complex_normal((batch, ANTENNAS, ANTENNAS), generator, device), factor=1.0),
    )
    return scale(small, gains)


if __name__ == "__main__":
    main()

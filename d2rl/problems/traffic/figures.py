"""Queues over the slots of an episode, and how long bits wait."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

from matplotlib.axes import Axes
from torch import Tensor

from d2rl.problems.base import Drawing
from d2rl.problems.traffic.metrics import waiting_longer
from d2rl.report.learning_curve import COLOURS

RAREST = 1e-4  # share of bits, lower end of a logarithmic axis


def drawings(outcomes: Mapping[str, tuple[Tensor, Tensor]]) -> list[Drawing]:
    """Both figures.

    :param outcomes: backlog [slots] and delays [B, K, A] of each policy
    """
    backlogs = {name: course for name, (course, _) in outcomes.items()}
    delays = {name: bits for name, (_, bits) in outcomes.items()}
    last = ", ".join(f"{name} {float(course[-1]):.2f}" for name, course in backlogs.items())
    late = ", ".join(f"{name} {float(waiting_longer(bits)[0]):.1%}" for name, bits in delays.items())
    return [
        (
            partial(draw_backlogs, backlogs=backlogs),
            f"Backlog of a cell over the slots. In the last slot, in bit/s/Hz-slots: {last}.",
            "What waits in a cell after each slot, mean over the episodes.",
        ),
        (
            partial(draw_waiting, delays=delays),
            f"Distribution of delays. Share of the bits that wait at all: {late}.",
            "Share of the bits served that waited longer than a number of slots.",
        ),
    ]


def draw_backlogs(axes: Axes, backlogs: Mapping[str, Tensor]) -> None:
    """Mean backlog of a cell over the slots.

    :param backlogs: [slots] of each policy, bit/s/Hz-slots
    """
    for (name, backlog), look in zip(backlogs.items(), _looks(), strict=False):
        axes.plot(range(1, len(backlog) + 1), backlog.cpu(), label=name, **look)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("slot")
    axes.set_ylabel("backlog (bit/s/Hz-slots)")
    axes.legend(fontsize=8)


def draw_waiting(axes: Axes, delays: Mapping[str, Tensor]) -> None:
    """Share of the bits served that waited longer.

    :param delays: [B, K, A] of each policy, bits by delay, from A - 1 slots down to 0
    """
    for (name, bits), look in zip(delays.items(), _looks(), strict=False):
        axes.plot(waiting_longer(bits).cpu().clamp_min(RAREST / 10), label=name, **look)
    axes.set_yscale("log")
    axes.set_ylim(RAREST, 1)
    axes.set_xlabel("delay (slots)")
    axes.set_ylabel("share of bits that wait longer")
    axes.legend(fontsize=8)


def _looks() -> Iterator[dict[str, Any]]:
    """The first policy strongly, the others thin; styles change where colours begin again."""
    for index, (style, colour) in enumerate(product(("-", "--", ":"), COLOURS)):
        yield {"color": colour, "linestyle": style, "linewidth": 1.0 if index else 1.8}

"""Figures of report.html, drawn at the width of a phone: rates over time, costs, stages, link rates, cells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from d2rl.config.defaults import STAGES
from d2rl.report.learning_curve import COLOURS, draw_learning_curve, read_changes
from d2rl.wireless import ChannelState
from d2rl.wireless.fading import steering

WIDTH = 4.4  # inches; letters of 9 points stay readable on a screen of 390 pixels
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "svg.image_inline": True,
}
GREY = "0.45"
QUANTILES = 201  # points of a distribution function, however many links there are
LABELLED = 12  # users that still get a label or a number of their own
FLOOR_DB = -10.0  # power over noise below which a beam counts as not heard


@contextmanager
def report_style() -> Iterator[None]:
    """Sizes and lines that all figures share."""
    with matplotlib.rc_context(STYLE):
        yield


@dataclass(frozen=True)
class Cell:
    """One drop and the decision made for it.

    :param channels: its true channels, a batch of one
    :param precoder: [N_t, K_D]
    :param uplink_power: [K_U]
    :param rates: [K_D + K_U], of the policy
    :param reference: the same of WMMSE
    :param positions: [K_D, 2] and [K_U, 2] in m, base station at the origin; None where they are unknown
    :param radius: of the cell, m
    :param line_of_sight: whether an array response lies in the channels
    """

    channels: ChannelState
    precoder: Tensor
    uplink_power: Tensor
    rates: Tensor
    reference: Tensor
    positions: tuple[Tensor, Tensor] | None
    radius: float
    line_of_sight: bool

    def beam_powers(self) -> Tensor:
        """Power over noise in dB that beam j (row) brings to each downlink user, and last, where there is an uplink, to
        the receiving array through self-interference: [K_D, K_D + 1], or [K_D, K_D]."""
        heard = (self.channels.downlink[0].conj() @ self.precoder).abs().square().mT
        leaked = (self.channels.self_interference[0] @ self.precoder).abs().square().sum(0)
        both = heard if self.channels.half_duplex else torch.cat([heard, leaked.unsqueeze(1)], dim=1)
        return 10 * torch.log10(both.clamp_min(10 ** (FLOOR_DB / 10)))

    def patterns(self, angles: Tensor) -> Tensor:
        """Amplitude that every beam sends towards ``angles`` [A] (rad), largest 1: [K_D, A]."""
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        response = steering(directions, self.precoder.shape[0])
        amplitude = (response.conj() @ self.precoder.to(response.dtype)).abs().mT
        return amplitude / amplitude.max().clamp_min(torch.finfo(amplitude.dtype).tiny)


def learning_curve_figure(metrics: Path, references: dict[str, dict[str, float]], *metric: str) -> Figure:
    """The sum rate, or another metric and its unit, over training time with the references' levels."""
    figure, axes = _figure(3.0)
    draw_learning_curve(axes, metrics, references, *metric)
    return figure


def sections_figure(seconds: dict[str, float]) -> Figure:
    """Seconds of every section of training as bars, longest first."""
    ordered = sorted(seconds.items(), key=lambda item: item[1])
    figure, axes = _figure(0.9 + 0.3 * len(ordered))
    names, values = [name for name, _ in ordered], [value for _, value in ordered]
    bars = axes.barh(names, values, color=COLOURS[0], height=0.65)
    total = sum(values) or 1.0
    axes.bar_label(bars, [f"{value:.1f} s, {value / total:.0%}" for value in values], padding=3, fontsize=8)
    axes.set_xlim(0, 1.35 * max(values, default=0.0) or 1.0)
    axes.set_xlabel("compute time (s)")
    return figure


def stages_figure(metrics: Path, end: float) -> Figure:
    """When each explorer is on (bars), and chi, over training time.

    :param end: training time at the end, s
    """
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.3))
    for row, (name, colour) in enumerate(zip(STAGES, COLOURS[1:], strict=False)):
        changes = [*read_changes(metrics, f"charts/stage_{name}"), (end, 0.0)]
        for (begin, on), (until, _) in pairwise(changes):
            if on > 0:
                above.barh(row, max(until - begin, 0.0), left=begin, color=colour, height=0.6)
    above.set_yticks(range(len(STAGES)), STAGES)
    above.set_ylim(len(STAGES) - 0.4, -0.6)
    above.set_title("explorers that are on", fontsize=9, loc="left")
    chi = read_changes(metrics, "charts/chi")
    if chi:
        below.step(*zip(*[*chi, (end, chi[-1][1])], strict=True), where="post", color=COLOURS[3])
    else:
        below.annotate("no state was replaced", (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY)
    highest = max([value for _, value in chi] + [0.1])
    below.set_ylim(-0.04 * highest, 1.1 * highest)
    below.set_xlim(0, end or 1.0)
    below.set_title("chi, share of states that are replaced", fontsize=9, loc="left")
    below.set_xlabel("training time (s)")
    return figure


def rates_figure(rates: dict[str, Tensor], direction: str) -> Figure:
    """Distribution function of link rates; the first policy is drawn strongly, the others as references.

    :param rates: [links] of every policy, bit/s/Hz
    """
    figure, axes = _figure(2.8)
    share = np.linspace(0, 1, QUANTILES)
    for index, (name, values) in enumerate(rates.items()):
        style = {"color": COLOURS[0]} if index == 0 else {"linewidth": 1.0, "color": ("0.1", GREY, "0.7")[index - 1]}
        axes.plot(np.quantile(values.double().numpy(), share), share, label=name, **style)
    axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{direction} rate of a user (bit/s/Hz)")
    axes.set_ylabel("share of links below")
    axes.legend(loc="lower right", fontsize=8)
    return figure


def cell_figure(cell: Cell) -> Figure:
    """Map of a cell (where positions are known), the power of its beams at its users, and its link rates."""
    mapped, beams = cell.positions is not None, cell.precoder.shape[1] > 0
    heights = [*[3.6] * mapped, *[2.6] * beams, 1.5]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.6), layout="constrained")
    panels = list(figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False).flat)
    if cell.positions is not None:
        _map(panels.pop(0), cell, *cell.positions)
    if beams:
        _powers(figure, panels.pop(0), cell)
    _link_rates(panels.pop(), cell)
    return figure


def _map(axes: Axes, cell: Cell, downlink: Tensor, uplink: Tensor) -> None:
    circle = np.linspace(0, 2 * np.pi, 361)
    axes.plot(cell.radius * np.cos(circle), cell.radius * np.sin(circle), color="0.8", linewidth=0.8)
    k_d = len(downlink)
    if cell.line_of_sight:
        angles = torch.linspace(0, 2 * torch.pi, 361)
        for beam, pattern in enumerate(cell.patterns(angles)[:LABELLED]):
            reach = 0.95 * cell.radius * pattern
            colour = COLOURS[beam % len(COLOURS)]
            axes.fill(reach * angles.cos(), reach * angles.sin(), color=colour, alpha=0.15, linewidth=0)
            axes.plot(reach * angles.cos(), reach * angles.sin(), color=colour, linewidth=0.9)
    else:
        widths = 5 * cell.rates[:k_d] / cell.rates.max().clamp_min(1e-9)
        for beam, (place, width) in enumerate(zip(downlink, widths.tolist(), strict=True)):
            axes.plot((0, place[0]), (0, place[1]), color=COLOURS[beam % len(COLOURS)], linewidth=width, alpha=0.7)
    colours = [COLOURS[beam % len(COLOURS)] for beam in range(k_d)]
    axes.scatter(downlink[:, 0], downlink[:, 1], c=colours, s=28, zorder=3)
    axes.scatter(uplink[:, 0], uplink[:, 1], marker="^", s=36, facecolors="white", edgecolors="black", zorder=3)
    if len(uplink):
        power: Any = cell.uplink_power.clamp(0, 1).numpy()  # an alpha for each point
        axes.scatter(uplink[:, 0], uplink[:, 1], marker="^", s=36, c="black", alpha=power, zorder=3)
    axes.scatter(0, 0, marker="s", s=40, color="black", zorder=4)
    for letter, places in (("D", downlink), ("U", uplink)):
        for index, (x, y) in enumerate(places.tolist()[:LABELLED], start=1):
            axes.annotate(f"{letter}{index}", (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8, zorder=5)
    axes.set_aspect("equal")
    axes.set_xlabel("m, along the array")
    axes.set_ylabel("m")


def _powers(figure: Figure, axes: Axes, cell: Cell) -> None:
    powers = cell.beam_powers().numpy()
    k_d = powers.shape[0]
    image = axes.imshow(powers, cmap="cividis", vmin=FLOOR_DB, aspect="auto")
    figure.colorbar(image, ax=axes, label="dB over noise", pad=0.02)
    axes.set_ylabel("beam")
    axes.set_title("power of every beam at every downlink user", fontsize=9, loc="left")
    if k_d > LABELLED:
        axes.set_xlabel("downlink user" + ("; last column: own receiver" if powers.shape[1] > k_d else ""))
        return
    names = [*(f"D{j}" for j in range(1, k_d + 1)), "SI"]
    axes.set_xticks(range(powers.shape[1]), names[: powers.shape[1]])
    axes.set_yticks(range(k_d), [f"for D{j}" for j in range(1, k_d + 1)])
    middle = (FLOOR_DB + powers.max()) / 2
    for (row, column), value in np.ndenumerate(powers):
        text = "<-10" if value <= FLOOR_DB else str(round(float(value)))
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="black" if value > middle else "white")


def _link_rates(axes: Axes, cell: Cell) -> None:
    links, k_d = len(cell.rates), cell.precoder.shape[1]
    places = np.arange(links)
    axes.bar(places - 0.2, cell.rates.numpy(), 0.4, color=COLOURS[0], label="d2rl")
    axes.bar(places + 0.2, cell.reference.numpy(), 0.4, color="0.7", label="wmmse")
    if links <= 2 * LABELLED:
        names = [f"D{j + 1}" if j < k_d else f"U{j - k_d + 1}" for j in range(links)]
        axes.set_xticks(places, names, fontsize=8)
    else:
        axes.set_xlabel("link, downlink first")
    axes.set_ylabel("bit/s/Hz")
    axes.set_title("link rates", fontsize=9, loc="left")
    axes.legend(loc="upper right", fontsize=8, ncols=2, bbox_to_anchor=(1, 1.3))


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()

"""curves.png, sections.png and latency.png of a benchmark."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from d2rl.benchmark.levels import BACK
from d2rl.benchmark.matrix import Matrix
from d2rl.benchmark.results import Result
from d2rl.evaluation.evaluate import AGENT, AGENT_BEST
from d2rl.report.learning_curve import COLOURS, read_metrics

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # seconds, gap closed
TOGETHER = 6  # curves that one panel can hold; more get a panel each, beside the baseline
BACK_FIGURE = "retraining"
LABELS = {
    "best_known": "best known",
    "wmmse": "WMMSE",
    "wmmse_200": "WMMSE(200)",
    "rzf": "RZF",
    "zf": "ZF",
    "mrt": "MRT",
    "random": "random",
}


def draw_figures(matrix: Matrix, results: Sequence[Result], summary: dict[str, Any]) -> list[Path]:
    """All figures that the results allow; those of further scenarios have the scenario's name at the end."""
    paths = []
    back = _back({name: one["retraining"] for name, one in summary["scenarios"].items() if "retraining" in one}, matrix)
    if back is not None:
        paths.append(matrix.out / f"{BACK_FIGURE}.png")
        back.savefig(paths[-1], dpi=150)
    for index, scenario in enumerate(matrix.scenarios):
        of = {name: [r for r in results if (r.variant, r.scenario) == (name, scenario)] for name in matrix.variants}
        of = {name: some for name, some in of.items() if some}
        for name, figure in (
            ("curves", _curves(matrix, of)),
            ("sections", _sections(matrix, of)),
            ("latency", _latency(matrix, of)),
        ):
            if figure is not None:
                paths.append(matrix.out / f"{name}{f'-{scenario}' if index else ''}.png")
                figure.savefig(paths[-1], dpi=150)
    return paths


def _curves(matrix: Matrix, results: dict[str, list[Result]]) -> Any:
    """Gap closed against training seconds: median and interquartile band over seeds, seeds faint."""
    curves = {name: [curve for result in some if (curve := _curve(result))] for name, some in results.items()}
    if not any(curves.values()):
        return None
    thresholds = next(iter(results.values()))[0].time_to_gap
    if len(curves) <= TOGETHER:
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.subplots()
        for (name, some), colour in zip(curves.items(), COLOURS, strict=False):
            _band(axes, some, colour, matrix.variants[name].title)
        _finish_curves(axes, thresholds)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
        return figure
    baseline = curves.pop(matrix.baseline, [])
    columns = 3
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(9, 2.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (name, some) in zip(grid.flat, curves.items(), strict=False):
        _band(axes, baseline, "0.5", "")
        _band(axes, some, COLOURS[1] if name == matrix.ours else COLOURS[0], "")
        _finish_curves(axes, thresholds)
        axes.set_title(matrix.variants[name].title, fontsize=9)
    for axes in grid.flat[len(curves) :]:
        axes.set_visible(False)
    for axes in grid.flat:
        axes.label_outer()
    if baseline:
        figure.suptitle(f"grey: {matrix.variants[matrix.baseline].title}", fontsize=9, color="0.35")
    return figure


def _curve(result: Result) -> Curve | None:
    """None for a run that was never evaluated."""
    rows = np.array(read_metrics(result.folder / "metrics.csv", "time/total", "eval/gap_closed"))
    return (rows[:, 0], rows[:, 1]) if rows.size else None


def _band(axes: Any, curves: list[Curve], colour: str, label: str) -> None:
    """Seeds as they are; their median where all of them have begun and none has ended."""
    for seconds, gaps in curves:
        axes.plot(seconds, gaps, color=colour, linewidth=0.6, alpha=0.35)
    if not curves:
        return
    begin, end = max(seconds[0] for seconds, _ in curves), min(seconds[-1] for seconds, _ in curves)
    grid = np.linspace(begin, max(begin, end), 200)
    stacked = np.stack([np.interp(grid, *curve) for curve in curves])
    low, middle, high = np.quantile(stacked, (0.25, 0.5, 0.75), axis=0)
    axes.fill_between(grid, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(grid, middle, color=colour, linewidth=1.8, label=label)


def _finish_curves(axes: Any, thresholds: dict[str, float]) -> None:
    for threshold in thresholds:
        axes.axhline(float(threshold), color="0.6", linewidth=0.6, linestyle=":")
    axes.axhline(1, color="0.4", linewidth=0.8)
    axes.annotate("WMMSE", (1, 1), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7, color="0.4")
    low = min(0.4, min((line.get_ydata().min() for line in axes.lines if len(line.get_ydata()) > 2), default=0))
    axes.set_ylim(max(-0.05, low), 1.08)
    axes.set_xlim(left=0)
    axes.set_xlabel("training time (s)")
    axes.set_ylabel("gap closed")
    axes.spines[["top", "right"]].set_visible(False)


def _sections(matrix: Matrix, results: dict[str, list[Result]]) -> Any:
    """Total seconds by section, mean over seeds, stacked; the first variant on top."""
    if not results:
        return None
    sections = list(dict.fromkeys(name for some in results.values() for result in some for name in result.seconds))
    titles = [matrix.variants[name].title for name in results]
    figure = Figure(figsize=(7, 1.2 + 0.36 * len(titles)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(titles))
    for section, colour in zip(sections, COLOURS * 2, strict=False):
        seconds = [statistics.fmean(r.seconds.get(section, 0.0) for r in some) for some in results.values()]
        axes.barh(titles, seconds, left=left, color=colour, label=section, height=0.7)
        left += seconds
    axes.invert_yaxis()
    axes.set_xlabel("total training time (s)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure


def _back(scenarios: dict[str, Any], matrix: Matrix) -> Any:
    """Time back to the best level, one group of bars for each scenario; hatched where fewer than half got there."""
    if not scenarios:
        return None
    names = list(dict.fromkeys(name for one in scenarios.values() for name in one["variants"]))
    found = {(s, name): v["best"] for s, one in scenarios.items() for name, v in one["variants"].items()}
    ends = [max(one["value"], one["ci"][1] or 0) for one in found.values() if one["value"] is not None]
    longest = max(ends, default=1.0) or 1.0
    figure = Figure(figsize=(7, 1.2 + 0.26 * len(names) * len(scenarios)), layout="constrained")
    axes = figure.subplots()
    height, named = 0.8 / len(names), set[str]()
    for row, scenario in enumerate(scenarios):
        for index, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
            if (one := found.get((scenario, name))) is None:
                continue
            label, place = None if name in named else matrix.variants[name].title, row + (index + 0.5) * height - 0.4
            named.add(name)
            if one["value"] is None:
                axes.barh(place, 1.05 * longest, height, color="none", edgecolor=colour, hatch="///", label=label)
                text = f"not reached, {one['reached']}/{one['of']}"
                axes.annotate(
                    text, (1.05 * longest, place), xytext=(3, 0), textcoords="offset points", fontsize=7, va="center"
                )
                continue
            axes.barh(place, one["value"], height, color=colour, label=label)
            low, high = one["ci"]
            if low is not None and high is not None:
                axes.plot((low, high), (place, place), color="0.2", linewidth=1)
            text = f"{one['value']:.1f}, {one['reached']}/{one['of']}"
            edge = max(one["value"], high or 0)
            axes.annotate(text, (edge, place), xytext=(3, 0), textcoords="offset points", fontsize=7, va="center")
    axes.set_yticks(range(len(scenarios)), list(scenarios))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * longest)
    axes.set_xlabel(f"training time to {BACK:g} of the best level from scratch (s), seeds that got there")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure


def _latency(matrix: Matrix, results: dict[str, list[Result]]) -> Any:
    """Final sum rate against the time of one decision: one proposal, the best of 16, and crosses for references."""
    points = {}
    for name, some in results.items():
        for policy, marker in ((AGENT, "o"), (AGENT_BEST, "s")):
            if point := _point([result.policies.get(policy, {}) for result in some]):
                points[name, policy] = (*point, marker)
    if not points:
        return None
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    colours = dict(zip(results, COLOURS, strict=False))
    if len(results) > TOGETHER:  # too many to tell apart
        colours = {matrix.baseline: COLOURS[0], matrix.ours: COLOURS[1]}
    for (name, policy), (latency, rate, marker) in points.items():
        label = matrix.variants[name].title if policy == AGENT and name in colours else None
        colour = colours.get(name, "0.6")
        face = colour if policy == AGENT else "none"
        axes.plot(latency, rate, marker, color=colour, markerfacecolor=face, label=label, markersize=6)
    labelled: list[float] = []
    for name in LABELS:
        reference = _point([result.policies.get(name, {}) for some in results.values() for result in some])
        if reference:
            axes.plot(*reference, "x", color="0.35")
            below = any(math.isclose(reference[1], rate, rel_tol=0.03) for rate in labelled)  # RZF and ZF may coincide
            place: Any = {"xytext": (5, -11 if below else 3), "textcoords": "offset points"}
            axes.annotate(LABELS[name], reference, **place, fontsize=8, color="0.35")
            labelled.append(reference[1])
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_xlabel("time of one decision for one cell (ms); filled: one proposal, open: best of 16")
    axes.set_ylabel("sum rate (bit/s/Hz)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7, loc="lower right")
    return figure


def _point(policies: list[dict[str, float]]) -> tuple[float, float] | None:
    """Median latency and rate of those that were timed."""
    timed = [(one["latency_ms"], one["sum_rate"]) for one in policies if "latency_ms" in one]
    return tuple(statistics.median(column) for column in zip(*timed, strict=True)) if timed else None

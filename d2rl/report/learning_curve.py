"""Figures that a run leaves."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d2rl.config.defaults import STAGES

# Okabe and Ito's colours, which colour-blind readers can tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LABEL_HEIGHT = 0.04  # of a letter, as a part of the axis


def read_metrics(path: Path, *columns: str) -> list[tuple[float, ...]]:
    """Rows of metrics.csv that have all of ``columns``; a number that is not finite is none."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [tuple(float(row.get(c) or math.nan) for c in columns) for row in csv.DictReader(file)]
    return [row for row in rows if all(map(math.isfinite, row))]


def learning_curve(
    metrics: Path,
    references: dict[str, dict[str, float]],
    path: Path,
    metric: str = "sum_rate",
    unit: str = "bit/s/Hz",
) -> None:
    """A metric over training time, with the references as lines and the stages as marks.

    :param metrics: metrics.csv of a run
    :param references: metrics of each
    :param metric: which of them, and its unit
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    draw_learning_curve(figure.subplots(), metrics, references, metric, unit)
    figure.savefig(path, dpi=150)


def draw_learning_curve(
    axes: Axes,
    metrics: Path,
    references: dict[str, dict[str, float]],
    metric: str = "sum_rate",
    unit: str = "bit/s/Hz",
) -> None:
    """The content of :func:`learning_curve`."""
    curve = read_metrics(metrics, "time/total", f"eval/{metric}")
    seconds, values = zip(*curve, strict=True) if curve else ((), ())
    axes.plot(seconds, values, color=COLOURS[0], linewidth=1.8)
    levels = {name: reference[metric] for name, reference in references.items()}
    everything = [*values, *levels.values()]
    apart = LABEL_HEIGHT * (max(everything, default=0) - min(everything, default=0))
    labels: dict[float, str] = {}
    for name, level in levels.items():
        axes.axhline(level, color="0.55", linewidth=0.8)
        near = [other for other in labels if abs(level - other) < apart]  # two names on one another cannot be read
        place = near[0] if near else level
        labels[place] = ", ".join([*([labels[place]] if near else []), name])
    for level, names in labels.items():
        axes.annotate(
            names,
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="0.35",
        )
    for stage, colour in zip(STAGES, COLOURS[1:], strict=False):
        marks = [time for time, on in read_changes(metrics, f"charts/stage_{stage}") if on > 0]
        if marks and marks[0] > 0:
            axes.axvline(marks[0], color=colour, linewidth=0.8, linestyle=":")
            axes.annotate(
                f"{stage} stage",
                (marks[0], 0.45),
                xycoords=axes.get_xaxis_transform(),
                xytext=(3, 0),
                textcoords="offset points",
                fontsize=8,
                color=colour,
                rotation=90,
            )
    axes.set_xlabel("training time (s)")
    name = metric.replace("_", " ")
    axes.set_ylabel(f"{name} ({unit})" if unit else name)
    axes.spines[["top", "right"]].set_visible(False)


def read_changes(metrics: Path, column: str) -> list[tuple[float, float]]:
    """(training time, value) of a column that is only written when it changes."""
    with open(metrics, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    pairs, time = [], 0.0
    for row in rows:
        time = float(row["time/total"]) if row.get("time/total") else time
        if row.get(column):
            pairs.append((time, float(row[column])))
    return pairs

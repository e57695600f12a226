"""Figures that a run leaves."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind readers can tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def read_metrics(path: Path, *columns: str) -> list[tuple[float, ...]]:
    """Rows of metrics.csv that have all of ``columns``."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [tuple(float(row[c]) for c in columns) for row in rows if all(row.get(c) for c in columns)]


def learning_curve(
    metrics: Path, references: dict[str, dict[str, float]], path: Path, metric: str = "sum_rate"
) -> None:
    """What was reached over training time, with the references as lines and the stages as marks.

    :param metrics: metrics.csv of a run
    :param references: policies of eval.json
    :param metric: what is drawn of them
    """
    figure, axes = plt.subplots(figsize=(7, 4), constrained_layout=True)
    draw_learning_curve(axes, metrics, references, metric)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_learning_curve(
    axes: Axes, metrics: Path, references: dict[str, dict[str, float]], metric: str = "sum_rate"
) -> None:
    """The content of :func:`learning_curve`; references that are not given are left out."""
    curve = read_metrics(metrics, "time/total", f"eval/{metric}")
    seconds, rates = zip(*curve, strict=True) if curve else ((), ())
    axes.plot(seconds, rates, color=COLOURS[0], linewidth=1.8)
    for name in [one for one in ("wmmse", "rzf", "mrt", "random") if one in references]:
        level = references[name][metric]
        axes.axhline(level, color="0.55", linewidth=0.8)
        axes.annotate(
            name.upper() if name != "random" else name,
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="0.35",
        )
    for stage, colour in zip(("action", "reward", "state"), COLOURS[1:], strict=False):
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
    axes.set_ylabel("sum rate (bit/s/Hz)" if metric == "sum_rate" else metric)
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

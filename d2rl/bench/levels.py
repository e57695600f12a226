"""How soon others reach the best level that a learner ever reaches."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2rl.bench.estimates import Estimate, estimate, interquartile_mean, ratio
from d2rl.bench.results import Result
from d2rl.errors import InputError
from d2rl.plots import read_metrics

Curve = list[tuple[float, ...]]  # seconds, gap closed


def time_to_levels(results: Sequence[Result], beside: str | None = None) -> dict[str, Any]:
    """For each variant its best level, and the time that it and the variants of another benchmark need to it.

    The level is the interquartile mean over seeds of the best gap closed in any evaluation; a variant's own time is
    that at which each seed met its best.

    :param beside: folder where d2rl.benchmark wrote; None compares with nothing
    :raises InputError: a folder without cells
    """
    others = _curves_in(Path(beside).expanduser()) if beside else {}
    levels: dict[str, Any] = {}
    for name in dict.fromkeys(result.variant for result in results):
        curves = [_curve(result.folder) for result in results if result.variant == name]
        best = [max(gap for _, gap in curve) for curve in curves]
        level = float(interquartile_mean(best))
        own = [_time_to(curve, top) for curve, top in zip(curves, best, strict=True)]
        compared = {}
        for other, theirs in others.items():
            times = [_time_to(curve, level) for curve in theirs]
            compared[other] = {**_plain(estimate(times)), "ratio": _plain(ratio(times, own)), "of": len(times)}
            compared[other]["reached"] = sum(map(math.isfinite, times))
        levels[name] = {"gap_closed": level, "own": _plain(estimate(own)), "others": compared}
    return levels


def levels_table(levels: dict[str, Any], titles: dict[str, str]) -> str:
    """The same as Markdown."""
    lines = ["## Time to the best level", "", "| best level of | gap closed | variant | s | ratio |"]
    lines += ["| --- | ---: | --- | ---: | ---: |"]
    for name, one in levels.items():
        head = f"| {titles[name]} | {one['gap_closed']:.3f} "
        lines += [f"{head}| itself | {_shown(one['own'], 1)} | 1 |"]
        lines += [
            f"{head}| {other} | {_shown(found, 1)}, {found['reached']}/{found['of']} | {_shown(found['ratio'], 3)} |"
            for other, found in one["others"].items()
        ]
    return "\n".join(["", *lines, ""])


def _curve(folder: Path) -> Curve:
    return read_metrics(folder / "metrics.csv", "time/total", "eval/gap_closed")


def _curves_in(folder: Path) -> dict[str, list[Curve]]:
    """Curves of every variant of a benchmark's first scenario."""
    try:
        with open(folder / "cells.csv", newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["status"] == "done"]
        rows = [row for row in rows if row["scenario"] == rows[0]["scenario"]]
        curves: dict[str, list[Curve]] = {}
        for row in rows:
            cell = folder / "cells" / "{variant}-{scenario}-{seed}".format(**row)
            curves.setdefault(row["variant"], []).append(_curve(cell))
        return curves
    except (OSError, KeyError) as error:
        raise InputError(f"beside={folder} is no folder of d2rl.benchmark with its cells: {error}") from None


def _time_to(curve: Curve, level: float) -> float:
    return next((seconds for seconds, gap in curve if gap >= level), math.inf)


def _plain(found: Estimate) -> dict[str, Any]:
    return {"value": found.value, "ci": list(found.interval), "statistic": found.statistic}


def _shown(found: dict[str, Any], digits: int) -> str:
    if found["value"] is None:
        return "-"
    low, high = ("∞" if one is None else f"{one:.{digits}f}" for one in found["ci"])
    interval = f" [{low}, {high}]" if found["ci"][0] is not None else ""
    return f"{found['value']:.{digits}f}{' m' if found['statistic'] == 'median' else ''}{interval}"

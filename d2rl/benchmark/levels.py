"""How soon learners reach a level that is not known beforehand: another's best, or that of before a change."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2rl.benchmark.estimates import Estimate, bound, estimate, interquartile_mean, ratio
from d2rl.benchmark.matrix import Matrix
from d2rl.benchmark.results import Result
from d2rl.common.errors import InputError
from d2rl.report.learning_curve import read_metrics

Curve = list[tuple[float, ...]]  # seconds, gap closed
BACK = 0.95  # part of a level at which a policy counts as being back


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
        curves = [curve for result in results if result.variant == name and (curve := _curve(result.folder))]
        if not curves:  # nothing to compare with the references
            continue
        best = [max(gap for _, gap in curve) for curve in curves]
        level = float(interquartile_mean(best))
        own = [first_at(curve, top) for curve, top in zip(curves, best, strict=True)]
        compared = {}
        for other, theirs in others.items():
            times = [first_at(curve, level) for curve in theirs]
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


def time_back(matrix: Matrix, results: Sequence[Result]) -> dict[str, Any] | None:
    """How soon the variants of one scenario reach 0.95 of what training from scratch reaches there at its end.

    The level of an algorithm is the interquartile mean over seeds of its final gap closed, trained from scratch;
    ``own`` asks for that of the same algorithm, ``best`` for the highest. ``ratio`` is over training from scratch of
    the same algorithm (own) or over the benchmark's baseline (best); ``ratio_below`` bounds it where that ended before
    it got there. ``before`` is the gap closed before the first update; where that is above the level, the time is 0.

    :param results: of one scenario
    :returns: None if nothing was continued there
    """
    of = {name: [result for result in results if result.variant == name] for name in matrix.variants}
    origin = {name: v.initial.variant for name, v in matrix.variants.items() if v.initial and of[name]}
    final = {name: [r.gap_closed for r in of[name] if r.gap_closed is not None] for name in origin.values()}
    levels = {name: BACK * float(interquartile_mean(gaps)) for name, gaps in final.items() if gaps}
    if not levels:
        return None
    best = max(levels, key=levels.__getitem__)
    curves = {name: [_curve(result.folder) for result in of[name]] for name in (*levels, *origin)}

    def times(name: str, level: float) -> list[float]:
        return [first_at(curve, level) for curve in curves[name]]

    def to_level(name: str, algorithm: str, over: str) -> dict[str, Any]:
        level = levels[algorithm]
        found, theirs = times(name, level), times(over, level) if over in curves and over != name else []
        compared, below = ratio(found, theirs), bound(found, theirs, [result.total_seconds for result in of[over]])
        reached = {"reached": sum(map(math.isfinite, found)), "of": len(found)}
        return {"level": level, **_plain(estimate(found)), **reached, "ratio": _plain(compared), "ratio_below": below}

    variants: dict[str, Any] = {}
    for name in curves:
        algorithm = origin.get(name, name)
        before = [curve[0][1] for curve in curves[name] if curve] if name in origin else []
        own = to_level(name, algorithm, algorithm) if algorithm in levels else None
        highest = to_level(name, best, matrix.baseline)
        variants[name] = {"from": origin.get(name), "before": _plain(estimate(before)), "own": own, "best": highest}
    return {"part": BACK, "best": best, "variants": variants}


def retraining_table(scenarios: dict[str, Any], titles: dict[str, str]) -> list[str]:
    """The same of all scenarios as lines of Markdown; none where nothing was continued."""
    lines = []
    for scenario, summary in scenarios.items():
        for name, one in summary.get("retraining", {"variants": {}})["variants"].items():
            before = "-" if one["before"]["value"] is None else f"{one['before']['value']:.3f}"
            own, best = (_back(one[key]) for key in ("own", "best"))
            lines.append(f"| {scenario} | {titles[name]} | {before} | {own} | {best} |")
    if not lines:
        return []
    columns = "level | s | over from scratch | level of the best | s | over the baseline"
    head = [f"| scenario | variant | gap closed at update 0 | {columns} |", "| --- | --- " + "| ---: " * 7 + "|"]
    return ["## Back to the level after a change", "", *head, *lines, "", AFTER_A_CHANGE, ""]


AFTER_A_CHANGE = f"""\
A level is {BACK:g} of the gap closed that training from scratch of the same algorithm reaches at its end in the changed
environment, or of the highest that any of the algorithms reaches so. A policy that is continued is evaluated before its
first update, too: where it is above the level already, the time is 0. Training before the change is not counted."""


def _back(found: dict[str, Any] | None) -> str:
    if found is None:
        return "- | - | -"
    compared, below = _shown(found["ratio"], 2), found["ratio_below"]
    if below is not None:
        compared = f"< {below:.2f}" if below else "0"
    return f"{found['level']:.3f} | {_shown(found, 1)}, {found['reached']}/{found['of']} | {compared}"


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
        raise InputError(f"beside={folder} is no folder of d2rl.benchmark.command with its cells: {error}") from None


def first_at(curve: Curve, level: float) -> float:
    """Seconds or updates until a curve of them and gap closed first has a level; infinite if never."""
    return next((place for place, gap in curve if gap >= level), math.inf)


def _plain(found: Estimate) -> dict[str, Any]:
    return {"value": found.value, "ci": list(found.interval), "statistic": found.statistic}


def _shown(found: dict[str, Any], digits: int) -> str:
    if found["value"] is None:
        return "-"
    low, high = ("∞" if one is None else f"{one:.{digits}f}" for one in found["ci"])
    interval = f" [{low}, {high}]" if found["ci"][0] is not None else ""
    return f"{found['value']:.{digits}f}{' m' if found['statistic'] == 'median' else ''}{interval}"

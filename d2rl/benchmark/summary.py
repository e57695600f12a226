"""summary.json: every variant over its seeds, and its ratios over the baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from d2rl.benchmark.estimates import Estimate, bound, censored_median, estimate, ratio
from d2rl.benchmark.levels import time_back
from d2rl.benchmark.matrix import Matrix
from d2rl.benchmark.results import Result
from d2rl.evaluation.evaluate import AGENT, AGENT_BEST

REACHED = ("wmmse_ratio", "gap_closed", "best_of_16", "outage_sum_rate", "outage_best_of_16")
COSTS = ("seconds_per_update", "seconds_per_epoch", "total_seconds")
METRICS = {"final": "sum_rate", **{name: name for name in (*REACHED, *COSTS)}}
RATIOS = {"final_sum_rate": "sum_rate", **{name: name for name in COSTS}}
PER_SEED = ("seed", "sum_rate", *REACHED, "total_seconds", "seconds_per_update")
OF_REFERENCES = ("sum_rate", "wmmse_ratio", "outage_sum_rate")  # the same in every cell of a scenario


def summarize(matrix: Matrix, results: Sequence[Result]) -> dict[str, Any]:
    """Content of summary.json; ``variants`` and ``ratios`` at the top are those of the first scenario.

    A time to a threshold is the interquartile mean if all seeds reached it, else the median with the others
    as infinite, null when fewer than half did; ``statistic`` tells which. Null in an interval means no bound.
    """
    scenarios = {name: _scenario(matrix, [r for r in results if r.scenario == name]) for name in matrix.scenarios}
    first = matrix.scenarios[0]
    return {
        "benchmark": matrix.name,
        "scenario": first,
        "baseline": matrix.baseline,
        "ours": matrix.ours,
        **scenarios[first],
        "scenarios": scenarios,
        "device": "; ".join(dict.fromkeys(result.device for result in results)),
        "torch": "; ".join(dict.fromkeys(result.torch for result in results)),
        "seeds": matrix.config.seeds,
        "cells": {"done": len(results), "planned": len(matrix.cells)},
    }


def _scenario(matrix: Matrix, results: Sequence[Result]) -> dict[str, Any]:
    by_variant = {name: [r for r in results if r.variant == name] for name in matrix.variants}
    variants = {name: _variant(of) for name, of in by_variant.items()}
    for name, of in by_variant.items():
        variants[name]["over_baseline"] = _ratios(of, by_variant[matrix.baseline])
    references = {
        name: {key: results[0].policies[name].get(key) for key in OF_REFERENCES}
        for name in (results[0].policies if results else ())
        if name not in (AGENT, AGENT_BEST)
    }
    summary = {**variants[matrix.ours]["over_baseline"], "variants": variants, "references": references}
    back = time_back(matrix, results)
    return {**summary, "retraining": back} if back else summary


def _variant(results: Sequence[Result]) -> dict[str, Any]:
    """Every metric of one variant over its seeds."""
    summary: dict[str, Any] = {name: _plain(estimate(_values(results, of))) for name, of in METRICS.items()}
    summary["time_to_gap"] = {threshold: _time(_times(results, threshold)) for threshold in _thresholds(results)}
    summary["epochs"] = max((result.epochs for result in results), default=None)
    summary["seeds"] = [
        {**{name: getattr(result, name) for name in PER_SEED}, "time_to_gap": result.time_to_gap} for result in results
    ]
    return summary


def _time(times: list[float]) -> dict[str, Any]:
    """``iqm`` only if all seeds reached it, the censored median if half did; ``ci`` is that of ``statistic``."""
    found, median = estimate(times), float(censored_median(times)) if times else math.inf
    return {
        "iqm": found.value if found.statistic == "iqm" else None,
        "median": median if math.isfinite(median) else None,
        "ci": list(found.interval),
        "statistic": found.statistic,
        "reached": sum(math.isfinite(time) for time in times),
        "of": len(times),
    }


def _ratios(ours: Sequence[Result], baseline: Sequence[Result]) -> dict[str, Any]:
    """``ratios``, and of the same shape their intervals and statistics.

    ``ratio_below`` bounds those that are null because the baseline's training ended before the threshold.
    """
    thresholds = _thresholds([*ours, *baseline])
    times = {key: ratio(_times(ours, key), _times(baseline, key)) for key in thresholds}
    others = {key: ratio(_values(ours, name), _values(baseline, name)) for key, name in RATIOS.items()}
    ended = [result.total_seconds for result in baseline]

    def shaped(of: Callable[[Estimate], Any]) -> dict[str, Any]:
        result = {"total_time_to_gap": {key: of(one) for key, one in times.items()}}
        return result | {key: of(one) for key, one in others.items()}

    return {
        "ratios": shaped(lambda one: one.value),
        "ratio_ci": shaped(lambda one: list(one.interval)),
        "ratio_statistic": shaped(lambda one: one.statistic),
        "ratio_below": {
            "total_time_to_gap": {key: bound(_times(ours, key), _times(baseline, key), ended) for key in thresholds}
        },
    }


def _values(results: Sequence[Result], name: str) -> list[float]:
    values = [getattr(result, name) for result in results]
    return [value for value in values if value is not None]


def _times(results: Sequence[Result], threshold: str) -> list[float]:
    return [result.time_to_gap.get(threshold, math.inf) for result in results]


def _thresholds(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(threshold for result in results for threshold in result.time_to_gap))


def _plain(found: Estimate) -> dict[str, Any]:
    return {"iqm": found.value, "ci": list(found.interval)}

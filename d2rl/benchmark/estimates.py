"""Estimates from a handful of seeds: interquartile mean, censored median, bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES, COVERAGE = 10_000, 0.95


def interquartile_mean(values: Sequence[float] | Floats) -> Floats:
    """Mean of the middle half of the values, along the last axis.

    A quarter of their number, n/4, is cut off at either end, and where that is no whole number the outermost
    value that stays counts in part: weights (1/4, 1, 1/4) for 3 values, (0, 3/4, 1, 3/4, 0) for 5. (rliable's
    ``trim_mean`` rounds n/4 down instead; for multiples of 4 the two agree.)

    :param values: [..., n], finite
    """
    ordered = np.sort(np.asarray(values, dtype=float), axis=-1)
    count = ordered.shape[-1]
    edges = np.arange(count + 1)
    weights = np.diff(np.clip(edges, count / 4, 3 * count / 4))
    return ordered @ weights / weights.sum()


def censored_median(values: Sequence[float] | Floats) -> Floats:
    """Smallest time by which at least half of the seeds were there; infinite if fewer ever were.

    This is the Kaplan-Meier median when seeds that never get there count as infinite.

    :param values: [..., n]
    """
    ordered = np.sort(np.asarray(values, dtype=float), axis=-1)
    return ordered[..., math.ceil(ordered.shape[-1] / 2) - 1]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; None where it is unknown or without bound.

    :param statistic: ``iqm``, or ``median`` when a seed is infinite
    """

    value: float | None
    interval: tuple[float | None, float | None]
    statistic: str = "iqm"


def estimate(values: Sequence[float]) -> Estimate:
    """Interquartile mean over seeds, or the censored median as soon as one is infinite."""
    statistic = "iqm" if np.isfinite(values).all() else "median"
    if not len(values):
        return Estimate(None, (None, None))
    return _estimate(STATISTICS[statistic](values), _resampled(values, statistic), len(values), statistic)


def ratio(ours: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """Ratio of the same statistic of both; seeds of the two are drawn independently of each other.

    Two infinite values in a resample count as an infinite ratio, which speaks against ``ours``.
    """
    if not len(ours) or not len(baseline):
        return Estimate(None, (None, None))
    statistic = "iqm" if np.isfinite([*ours, *baseline]).all() else "median"
    top, bottom = STATISTICS[statistic](ours), STATISTICS[statistic](baseline)
    if not np.isfinite(bottom):  # no number to compare with, however good ours is
        return Estimate(None, (None, None), statistic)
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = _resampled(ours, statistic, 1) / _resampled(baseline, statistic, 2)
        value = np.divide(top, bottom)
    resampled = np.where(np.isnan(resampled), np.inf, resampled)
    return _estimate(value, resampled, min(len(ours), len(baseline)), statistic)


def bound(ours: Sequence[float], baseline: Sequence[float], ended: Sequence[float]) -> float | None:
    """Our time over the shortest run of the baseline that did not get there, where fewer than half of them did.

    :param ended: seconds of the baseline's whole runs, in the order of ``baseline``
    :returns: None where the baseline got there, or where we did not
    """
    value = estimate(ours).value
    if value is None or not len(baseline) or math.isfinite(censored_median(baseline)):
        return None
    return value / min(seconds for seconds, time in zip(ended, baseline, strict=True) if math.isinf(time))


STATISTICS: dict[str, Callable[[Sequence[float] | Floats], Floats]] = {
    "iqm": interquartile_mean,
    "median": censored_median,
}


def _resampled(values: Sequence[float], statistic: str, stream: int = 0) -> Floats:
    """The statistic of seeds drawn with replacement, [RESAMPLES]; always the same draws."""
    generator = np.random.default_rng(stream)
    chosen = generator.integers(len(values), size=(RESAMPLES, len(values)))
    return STATISTICS[statistic](np.asarray(values, dtype=float)[chosen])


def _estimate(value: Floats, resampled: Floats, count: int, statistic: str) -> Estimate:
    tail = (1 - COVERAGE) / 2
    low = np.quantile(resampled, tail, method="lower")  # no interpolation: it fails next to infinity
    high = np.quantile(resampled, 1 - tail, method="higher")
    interval = (_finite(low), _finite(high)) if count > 1 else (None, None)  # one seed has no spread
    return Estimate(_finite(value), interval, statistic)


def _finite(value: Floats | np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None

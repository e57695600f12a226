"""What a set of decisions is worth, in a few numbers."""

from __future__ import annotations

from torch import Tensor


def rate_summary(rates: Tensor, weights: Tensor) -> dict[str, float]:
    """Mean ``sum_rate`` and ``weighted_sum_rate`` of B states, ``outage_sum_rate`` (5th percentile of the sum rate over
    states), ``rate_p5`` (5th percentile over all links) and ``jain`` (Jain's index of the links of a state, averaged).

    :param rates: [B, K], bit/s/Hz
    :param weights: [B, K], priority of every link
    """
    rates = rates.double()
    total, squares = rates.sum(-1), rates.square().sum(-1)
    found = {
        "sum_rate": total.mean(),
        "weighted_sum_rate": (rates * weights).sum(-1).mean(),
        "outage_sum_rate": total.quantile(0.05),
        "rate_p5": rates.flatten().quantile(0.05),
        "jain": (total.square() / (rates.shape[-1] * squares).clamp_min(1e-30)).mean(),
    }
    return {name: float(value) for name, value in found.items()}

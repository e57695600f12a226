"""What a set of decisions is worth in a few numbers, as a torchmetrics metric."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class RateSummary(Metric):
    """Summary of link rates over many states, for problems whose utility is a rate.

    ``compute`` gives ``sum_rate`` and ``weighted_sum_rate`` (means over states, bit/s/Hz), ``outage_sum_rate`` (5th
    percentile of the sum rate over states), ``rate_p5`` (5th percentile over all links) and ``jain`` (Jain's fairness
    index of the links of a state, averaged).

    Example::

        summary = RateSummary()
        summary.update(link_rates(channels, precoder, power))
        summary.compute()["sum_rate"]
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_state("rates", default=[], dist_reduce_fx="cat")
        self.add_state("weighted", default=[], dist_reduce_fx="cat")

    def update(self, rates: Tensor, weights: Tensor | None = None) -> None:
        """Add link rates [B, K], bit/s/Hz, with priorities [B, K] (default 1)."""
        rates = rates.double()
        self.rates.append(rates)
        self.weighted.append((rates if weights is None else rates * weights).sum(-1))

    def compute(self) -> dict[str, Tensor]:
        """The summary over all states so far."""
        rates = torch.cat(list(self.rates))
        total, squares = rates.sum(-1), rates.square().sum(-1)
        return {
            "sum_rate": total.mean(),
            "weighted_sum_rate": torch.cat(list(self.weighted)).mean(),
            "outage_sum_rate": total.quantile(0.05),
            "rate_p5": rates.flatten().quantile(0.05),
            "jain": (total.square() / (rates.shape[-1] * squares).clamp_min(1e-30)).mean(),
        }


def rate_summary(rates: Tensor, weights: Tensor) -> dict[str, float]:
    """The :class:`RateSummary` of one set of states.

    :param rates: [B, K], bit/s/Hz
    :param weights: [B, K], priority of every link
    """
    summary = RateSummary(sync_on_compute=False).to(
        rates.device
    )  # one process evaluates alone; others would not answer
    summary.update(rates, weights)
    return {name: float(value) for name, value in summary.compute().items()}

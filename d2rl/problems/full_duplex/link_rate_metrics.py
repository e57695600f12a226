"""What a set of decisions is worth, as a torchmetrics metric."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class RateMetrics(Metric):
    """Summary of link rates over many states.

    ``compute`` gives ``sum_rate``, ``weighted_sum_rate``, ``downlink_rate``, ``uplink_rate`` (mean sums over links,
    bit/s/Hz), ``outage_sum_rate`` (5th percentile of the sum rate over states), ``rate_p5`` (5th percentile
    over all links) and ``jain`` (Jain's fairness index of the links of a state, averaged).

    Example::

        metrics = RateMetrics(downlink_users=6)
        metrics.update(link_rates(channels, precoder, power))
        metrics.compute()["sum_rate"]

    :param downlink_users: K_D; downlink links come first
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, downlink_users: int, **kwargs):
        super().__init__(**kwargs)
        self.downlink_users = downlink_users
        self.add_state("rates", default=[], dist_reduce_fx="cat")
        self.add_state("weighted", default=[], dist_reduce_fx="cat")

    def update(self, rates: Tensor, weights: Tensor | None = None) -> None:
        """Add link rates [B, K_D + K_U] with priorities [B, K_D + K_U] (default 1)."""
        self.rates.append(rates)
        self.weighted.append((rates if weights is None else rates * weights).sum(-1))

    def compute(self) -> dict[str, Tensor]:
        """The summary over all states so far."""
        rates = torch.cat(list(self.rates)).double()
        total, squares = rates.sum(-1), rates.square().sum(-1)
        return {
            "sum_rate": total.mean(),
            "weighted_sum_rate": torch.cat(list(self.weighted)).double().mean(),
            "downlink_rate": rates[:, : self.downlink_users].sum(-1).mean(),
            "uplink_rate": rates[:, self.downlink_users :].sum(-1).mean(),
            "outage_sum_rate": total.quantile(0.05),
            "rate_p5": rates.flatten().quantile(0.05),
            "jain": (total.square() / (rates.shape[-1] * squares).clamp_min(1e-30)).mean(),
        }

"""What is asked of the links together: their weighted sum, that and a minimum for each, the largest minimum, or most
bits for each joule."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from d2rl.wireless.energy import Consumption
from d2rl.wireless.link_rates import Decision

WEIGHTED_SUM, MINIMUM, MAX_MIN, ENERGY = ("weighted_sum", "minimum", "max_min", "energy")
FREE = Consumption(base_station=0, user=0, circuits=1, bandwidth=1)  # as much whatever is decided
UP, DOWN, REACH = 0.25, 0.02, 2.4  # steps of a log multiplier, and how far it may go
SHORTAGE = 20.0  # further weight of a link below the minimum in WMMSE
SHARPNESS, MARGIN = 3.0, 2.0  # it sets in gradually, MARGIN / SHARPNESS bit/s/Hz above the minimum
FADE_DB = 30.0  # by which all powers are lowered in the last round of the search for the most efficient decision
SEVERITY = 1e6  # a decision that meets the minimum is better than any that does not


@dataclass(frozen=True)
class Objective:
    r"""What decides between two decisions for one state.

    Methods for weighted sums reach the others by weights that follow the rates: WMMSE those of a concave utility
    :math:`f`, :math:`f'(R_k)` anew in every iteration (Shi et al., IEEE TSP 2011); a policy that takes priorities as
    inputs multipliers, raised for the links that fall short and asked again. What is efficient it finds by being asked
    as if all powers were lower.

    :param kind: ``weighted_sum``; ``minimum``: that, and no wanted link (weight above 0) below the minimum;
        ``max_min``; ``energy``: the weighted sum over what the decision takes
    :param minimum: of every wanted link, bit/s/Hz
    :param rounds: in which a policy is asked
    :param consumption: what decisions take; of ``energy``
    """

    kind: str = WEIGHTED_SUM
    minimum: float = 0.0
    rounds: int = 24
    consumption: Consumption = FREE

    @property
    def plain(self) -> bool:
        """Whether it is the weighted sum alone."""
        return self.kind == WEIGHTED_SUM

    def score(self, rates: Tensor, weights: Tensor, decision: Decision | None = None) -> Tensor:
        """The larger, the better: [...] from rates [..., K] and weights [..., K]; of ``energy`` in Mbit/J.

        :param decision: that brought these rates; only ``energy`` looks at it
        """
        if self.kind == MAX_MIN:
            return rates.masked_fill(weights <= 0, float("inf")).amin(-1)
        total = (rates * weights).sum(-1)
        if self.kind == ENERGY:
            assert decision is not None
            return self.consumption.bandwidth * total / self.consumption.of(*decision).view(total.shape)
        return total - SEVERITY * self.shortfall(rates, weights) if self.kind == MINIMUM else total

    def shortfall(self, rates: Tensor, weights: Tensor) -> Tensor:
        """By how much wanted links miss the minimum in all, [...], bit/s/Hz, from rates and weights [..., K]."""
        return ((self.minimum - rates).clamp_min(0) * (weights > 0)).sum(-1)

    def slope(self, rates: Tensor, weights: Tensor) -> Tensor:
        """f'(R_k) of the concave utility that stands for the objective, [B, K], for the next iteration of WMMSE.

        :param rates: [B, K], bit/s/Hz
        :param weights: [B, K]
        """
        if self.kind == MAX_MIN:
            wanted = weights > 0
            return torch.softmax((-rates).masked_fill(~wanted, -float("inf")), dim=-1) * wanted.sum(-1, keepdim=True)
        if self.kind == MINIMUM:
            short = torch.sigmoid(SHARPNESS * (self.minimum - rates) + MARGIN)
            return weights + SHORTAGE * short * (weights > 0)
        return weights

    def priorities(self, multipliers: Tensor, weights: Tensor) -> Tensor:
        """What a policy is asked under, from log multipliers [B, K] that begin at 0."""
        return torch.exp(multipliers) * ((weights > 0).to(weights.dtype) if self.kind == MAX_MIN else weights)

    def step(self, multipliers: Tensor, rates: Tensor, weights: Tensor) -> Tensor:
        """Log multipliers of the next round: larger for the links that fall short; with ``energy`` they stay.

        :param multipliers: [B, K], those of this round
        :param rates: [B, K], that it reached, bit/s/Hz
        :param weights: [B, K]
        """
        if self.kind == ENERGY:
            return multipliers
        if self.kind == MINIMUM:
            return torch.where(rates < self.minimum, multipliers + UP, multipliers - DOWN).clamp(0, REACH)
        wanted = (weights > 0).to(rates.dtype)
        count = wanted.sum(-1, keepdim=True).clamp_min(1)
        mean = (rates * wanted).sum(-1, keepdim=True) / count
        moved = multipliers - UP * (rates / mean.clamp_min(1e-6) - 1)
        return (moved - (moved * wanted).sum(-1, keepdim=True) / count).clamp(-REACH / 2, REACH / 2)

    def power_level(self, turn: int) -> float:
        """Part of all powers with which a policy is asked in a round, from 1 down; 1 but for ``energy``."""
        return 10 ** (-FADE_DB / 10 * turn / max(1, self.rounds - 1)) if self.kind == ENERGY else 1.0

    def metrics(self, rates: Tensor, weights: Tensor, decision: Decision) -> dict[str, float]:
        """Means over B states.

        With ``energy`` the ``energy_efficiency`` in Mbit/J and the ``total_power`` in W. Else ``min_rate``, the
        smallest wanted rate, and with a minimum ``satisfied``, share of the states that meet it, and ``shortfall``,
        what is missing in all.

        :param rates: [B, K], bit/s/Hz
        :param weights: [B, K]
        :param decision: precoder [B, N_t, K_D] and uplink power [B, K_U] that brought the rates
        """
        if self.kind == ENERGY:
            efficiency, taken = self.score(rates, weights, decision), self.consumption.of(*decision)
            return {"energy_efficiency": float(efficiency.double().mean()), "total_power": float(taken.double().mean())}
        lowest = rates.masked_fill(weights <= 0, float("inf")).amin(-1)
        found = {"min_rate": float(lowest.double().mean())}
        if self.kind == MINIMUM:
            missed = self.shortfall(rates, weights).double()
            found |= {"satisfied": float((missed <= 1e-4).double().mean()), "shortfall": float(missed.mean())}
        return found

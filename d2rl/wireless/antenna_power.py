"""A limit on the power of every antenna, beside the one on their sum."""

from __future__ import annotations

import torch
from torch import Tensor

from d2rl.wireless.link_rates import solve, squared_magnitude

FIRST_STEPS, STEPS = 200, 16  # of the prices in the first call, and in those that go on from the prices of the last
PACE = 0.7  # exponent of a step
LEAST = 1e-30  # a price that has come so low can still rise


def within_antenna_power(precoder: Tensor, limit: float | None) -> Tensor:
    """Scale down the precoders whose strongest antenna is above the limit; the directions of all beams stay.

    :param precoder: [B, N_t, K_D]
    :param limit: of an antenna's power, in units of 1 / N_t, its equal share; None: there is none
    """
    if limit is None:
        return precoder
    strongest = squared_magnitude(precoder).sum(-1).amax(-1, keepdim=True).unsqueeze(-1)
    return precoder / (strongest * (precoder.shape[-2] / limit)).clamp_min(1).sqrt()


class AntennaPrices:
    r"""Precoders of WMMSE under both limits, from multipliers ("prices") that are kept from call to call.

    The minimum of :math:`tr(W^H A W) - 2 Re tr(C^H W)` is :math:`(A + \nu I + diag(\mu))^{-1} C` where every price
    times the distance to its limit is 0 (Yu and Lan, IEEE TSP 2007, for the dual uplink). A price grows with the power
    that it is to limit over that limit, and what is still above a limit in the end is scaled down.

    :param limit: of an antenna's power, in units of 1 / N_t
    """

    def __init__(self, limit: float):
        self.limit = limit
        self.prices: Tensor | None = None  # [B, 1 + N_t], of the sum and of every antenna

    def __call__(self, quadratic: Tensor, target: Tensor) -> Tensor:
        """W for A [B, N_t, N_t] and C [B, N_t, K_D], in double."""
        antennas, steps = quadratic.shape[-1], FIRST_STEPS if self.prices is None else STEPS
        if self.prices is None:
            scale = squared_magnitude(target).sum((-2, -1)).sqrt().clamp_min(LEAST)  # W is about C / nu
            self.prices = scale.unsqueeze(-1).expand(-1, 1 + antennas) / 2
        for _ in range(steps):
            precoder = self._priced(quadratic, target)
            power = squared_magnitude(precoder).sum(-1)
            spent = torch.cat([power.sum(-1, keepdim=True), power * (antennas / self.limit)], dim=-1)
            self.prices = (self.prices * spent.pow(PACE)).clamp_min(LEAST)
        precoder = self._priced(quadratic, target)
        total = squared_magnitude(precoder).sum((-2, -1), keepdim=True)
        return within_antenna_power(precoder / total.clamp_min(1).sqrt(), self.limit)

    def _priced(self, quadratic: Tensor, target: Tensor) -> Tensor:
        assert self.prices is not None
        shift = self.prices[:, :1] + self.prices[:, 1:]
        return solve(quadratic + torch.diag_embed(shift).to(quadratic.dtype), target)

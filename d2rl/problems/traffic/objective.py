"""What a decision is worth to links with queues, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from d2rl.common.tensor_struct import TensorStruct
from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.traffic.settings import TrafficConfig
from d2rl.wireless.link_rates import squared_magnitude

Decision = tuple[Tensor, Tensor]  # precoder [B, N_t, K_D], total power 1 at most; uplink power [B, K_U] in [0, 1]


@dataclass(frozen=True)
class Waiting(TensorStruct):
    """What a base station knows of its queues.

    :param queues: [B, K], bit/s/Hz-slots      :param due: [B, K], of these, what is dropped unless it is served now
    :param throughput: [B, K], bit/s/Hz, average of what was served
    """

    queues: Tensor
    due: Tensor
    throughput: Tensor


class Objective:
    r"""The utility of a link in a slot, in bit/s/Hz-slots: minus what waits after it, and what else has a price.

    .. math:: -\Big(\max(q - R, 0) - x\Big) - c_x x - c_e e - c_m \max(m - \bar r, 0)

    with the queue q, the rate R, the radiated energy e in mJ, x = max(due - R, 0) dropped at its deadline, and the
    average throughput :math:`\bar r` of a link that has something to send.

    :param traffic: prices      :param scenario: powers and slot
    """

    def __init__(self, traffic: TrafficConfig, scenario: FullDuplexConfig):
        self.traffic = traffic
        # dBm x ms -> mJ
        self.energies = [
            10 ** (power / 10) * 1e-3 * scenario.slot for power in (scenario.bs_power, scenario.user_power)
        ]

    def energy(self, decision: Decision) -> Tensor:
        """Radiated for every link in a slot, [B, K], mJ."""
        precoder, power = decision
        station, user = self.energies
        return torch.cat([station * squared_magnitude(precoder).sum(-2), user * power], dim=-1)

    def __call__(self, waiting: Waiting, rates: Tensor, decision: Decision) -> Tensor:
        """Utilities [B, M, K] of M decisions for each state.

        :param rates: [B, M, K], that the decisions bring
        """
        t, one = self.traffic, waiting.map(lambda tensor: tensor.unsqueeze(1))
        utility = -(one.queues - rates).clamp_min(0)
        if t.downlink_deadline or t.uplink_deadline:
            utility = utility - (t.drop_price - 1) * (one.due - rates).clamp_min(0)
        if t.energy_price:
            utility = utility - t.energy_price * self.energy(decision).unflatten(0, rates.shape[:2])
        if t.minimum_rate:
            served = torch.minimum(one.queues, rates)
            average = one.throughput.lerp(served, 1 / t.window)
            short = (t.minimum_rate - average).clamp_min(0) * (one.queues > 0)
            utility = utility - t.minimum_price * short
        return utility


def per_link(down: float | None, up: float | None, counts: tuple[int, int], device: torch.device) -> Tensor:
    """A limit of each direction as one of every link, [K]; infinite where there is none."""
    limits = [math.inf if limit is None else float(limit) for limit in (down, up)]
    return torch.cat([torch.full((n,), limit, device=device) for n, limit in zip(counts, limits, strict=True)])

"""Energy efficiency: what a decision carries over what it takes, and the decisions that carry most."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from d2rl.wireless.antenna_power import within_antenna_power
from d2rl.wireless.bounds import water_filling
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.link_rates import Decision, link_rates, squared_magnitude
from d2rl.wireless.priced_step import priced_step

STEPS = 30  # of Dinkelbach's method, which converges superlinearly


@dataclass(frozen=True)
class Consumption:
    """What a cell takes: radiated powers, and those of its circuits, whatever is decided.

    :param base_station: P_BS, W, radiated at full power
    :param user: P_UE, W, radiated by an uplink user at full power
    :param circuits: P_c, W
    :param bandwidth: MHz
    """

    base_station: float
    user: float
    circuits: float
    bandwidth: float

    def of(self, precoder: Tensor, power: Tensor) -> Tensor:
        """W of B decisions, [B].

        :param precoder: [B, N_t, K_D], complex
        :param power: [B, K_U]
        """
        return self.circuits + self.base_station * squared_magnitude(precoder).sum((-2, -1)) + self.user * power.sum(-1)


def efficient_wmmse(
    channels: ChannelState,
    precoder: Tensor,
    power: Tensor,
    weights: Tensor,
    consumption: Consumption,
    iterations: int,
    antenna_power: float | None = None,
) -> Decision:
    r"""The most efficient decision on the way of some iterations from given ones.

    Dinkelbach's method (Management Science 1967): with :math:`\lambda` the efficiency reached so far, every iteration
    is one of WMMSE, in its priced form, for the weighted sum rate minus :math:`\lambda` times the consumption.

    :param channels: B states
    :param precoder: [B, N_t, K_D], complex
    :param power: [B, K_U]
    :param weights: [B, K_D + K_U]
    :param antenna_power: limit of every antenna, in units of 1 / N_t, kept by scaling down; None: there is none
    :returns: precoder and uplink power, in the precision of the channels
    """
    problem, weights = channels.double(), weights.double()
    found = within_antenna_power(precoder.to(torch.complex128), antenna_power), power.double().sqrt()
    best, highest = found, torch.full_like(weights[:, 0], -math.inf)
    for turn in range(iterations + 1):
        taken = consumption.of(found[0], found[1].square())
        efficiency = (weights * link_rates(problem, found[0], found[1].square())).sum(-1) / taken
        better = efficiency > highest
        highest = torch.maximum(efficiency, highest)
        best = torch.where(better[:, None, None], found[0], best[0]), torch.where(better[:, None], found[1], best[1])
        if turn < iterations:
            nats = math.log(2) * highest
            cost = nats * consumption.base_station, nats * consumption.user
            _, beams, amplitude = priced_step(problem, *found, weights, cost)
            found = within_antenna_power(beams, antenna_power), amplitude
    return best[0].to(channels.downlink.dtype), best[1].square().to(channels.downlink.real.dtype)


def efficiency_bound(channels: ChannelState, weights: Tensor, consumption: Consumption) -> Tensor:
    """An efficiency that no decision can pass, [B], Mbit/J: that of links without interference.

    With one user it is the largest efficiency there is.

    :param channels: B states
    :param weights: [B, K_D + K_U]
    """
    users, weights = (channels.downlink_users, channels.uplink_users), weights.double()
    gain = torch.cat([squared_magnitude(one).sum(-1) for one in (channels.downlink, channels.uplink)], dim=-1).double()
    full = water_filling(*(one[:, : users[0]] for one in (gain, weights)))
    watt = torch.cat(
        [torch.full_like(full, consumption.base_station), torch.full_like(gain[:, users[0] :], consumption.user)], -1
    )
    power = torch.cat([full, torch.ones_like(gain[:, users[0] :])], dim=-1)
    for _ in range(STEPS):
        carried = (weights * torch.log2(1 + gain * power)).sum(-1, keepdim=True)
        efficiency = carried / (consumption.circuits + (watt * power).sum(-1, keepdim=True))
        price = (math.log(2) * efficiency * watt).clamp_min(1e-300)
        down, up = (weights / price - 1 / gain.clamp_min(1e-300)).clamp_min(0).split(users, dim=-1)
        down = torch.where(down.sum(-1, keepdim=True) > 1, full, down)
        power = torch.cat([down, up.clamp_max(1)], dim=-1)
    return consumption.bandwidth * efficiency.squeeze(-1)

"""A step of WMMSE in which powers go the whole way at once."""

from __future__ import annotations

import torch
from torch import Tensor

from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.link_rates import add_identity, column_powers, inner, real_diagonal, solve
from d2rl.wireless.wmmse import receivers

FULL = 1 - 1e-9  # downlink power that is at the limit
TINY = 1e-30  # divides what is 0; an export rounds it to single precision


def priced_step(
    channels: ChannelState,
    precoder: Tensor,
    amplitude: Tensor,
    weights: Tensor,
    cost: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Every power goes to where its own gain would equal its price; beams as in WMMSE.

    With :math:`\alpha_k` the weight of a link times SINR / (1 + SINR), :math:`\pi_k` what a unit of its power costs the
    others, and :math:`\mu` the price of downlink power,

    .. math::
        p_k = \min(1, \alpha_k / \pi_k), \quad w_j \propto (A + \mu I)^{-1} g_j, \quad
        \|w_j\|^2 = \alpha_j / (\pi_j + \mu)

    which is the power control of SCALE (Papandriopoulos and Evans, IEEE Trans. Inf. Theory 2009) for given receivers.
    The powers settle in a few steps where WMMSE takes as many as the SINR. It need not raise the objective.

    :param channels: B states in double precision
    :param precoder: [B, N_t, K_D]
    :param amplitude: [B, K_U], q_k = sqrt(p_k)
    :param weights: [B, K_D + K_U]
    :param cost: [B] both, nats that a unit of downlink power and of a user's p cost beside; None: nothing
    :returns: the objective of the decision given without that cost, [B], and the next precoder, with beams of phases
        at which g_j^H w_j is positive, and amplitude
    """
    at = receivers(channels, precoder, amplitude, weights)
    users = channels.downlink_users, channels.uplink_users
    priority_up, (paid, paid_up) = weights[..., users[0] :], at.costs.split(users, dim=-1)
    if cost is not None:
        paid_up = paid_up + cost[1].unsqueeze(-1)
    power = priority_up * amplitude * at.correlation / paid_up.clamp_min(TINY)  # what costs nothing is given all

    # the multiplier of the power limit, by stationarity: what the power earns minus what it costs the others
    spent = column_powers(precoder).sum(-1, keepdim=True)
    mu = (at.earned - paid).sum(-1, keepdim=True) / spent.clamp_min(TINY)
    floor = (1e-10 * real_diagonal(at.quadratic).sum(-1, keepdim=True)).clamp_min(TINY)
    if cost is not None:
        least = cost[0].unsqueeze(-1)
        mu = torch.where(spent < FULL, least, mu)  # below the limit a unit of power has no other price
        floor = torch.maximum(floor, least)
    price = torch.maximum(mu, floor).unsqueeze(-1)
    targets = channels.downlink.mT
    beams = solve(add_identity(at.quadratic, price), targets)
    energy, reached = column_powers(beams), inner(targets, beams)  # g_j^H (A + mu I)^-1 g_j
    divisor = reached * (1 - at.price * reached)
    share = at.earned * energy / torch.where(divisor > 0, divisor, 1)  # rounding takes the last of a very strong link
    total = share.sum(-1, keepdim=True)
    share = share / torch.where(mu > floor, total.clamp_min(TINY), total.clamp_min(1))
    return at.objective, beams * root(share / energy.clamp_min(TINY)).unsqueeze(-2), root(power.clamp(0, 1))


def root(values: Tensor) -> Tensor:
    """The square root; next to nothing, with a gradient of 0, where there is nothing."""
    return values.clamp_min(TINY**2).sqrt()

"""A step of WMMSE in which powers go the whole way at once."""

from __future__ import annotations

import torch
from torch import Tensor

from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.link_rates import identity_like, solve, squared_magnitude
from d2rl.wireless.wmmse import receivers

FULL = 1 - 1e-9  # downlink power that is at the limit


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
    :returns: the objective of the decision given without that cost, [B], and the next precoder and amplitude
    """
    at = receivers(channels, precoder, amplitude, weights)
    priority_down, priority_up = weights.split([channels.downlink_users, channels.uplink_users], dim=-1)
    signal = squared_magnitude(at.own)

    own = at.passed.diagonal(dim1=-2, dim2=-1)
    paid_up = (at.b.unsqueeze(-1) * at.passed).sum(-2) - at.b * own
    paid_up = paid_up.clamp_min(0) + (squared_magnitude(channels.cross) @ at.price.unsqueeze(-1)).squeeze(-1)
    if cost is not None:
        paid_up = paid_up + cost[1].unsqueeze(-1)
    power = priority_up * amplitude * at.correlation / paid_up.clamp_min(1e-100)  # what costs nothing is given all

    # the multiplier of the power limit, by stationarity: what the power earns minus what it costs the others
    earned = priority_down * (at.own * at.u.conj()).real
    paid = (precoder.conj() * (at.quadratic @ precoder)).real.sum(-2) - at.price * signal
    spent = squared_magnitude(precoder).sum((-2, -1))
    mu = (earned - paid).sum(-1) / positive(spent)
    floor = 1e-10 * at.quadratic.diagonal(dim1=-2, dim2=-1).real.sum(-1) + 1e-100
    if cost is not None:
        mu = torch.where(spent < FULL, cost[0], mu)  # below the limit a unit of power has no other price
        floor = torch.maximum(floor, cost[0])
    limited = mu > floor
    price = torch.maximum(mu, floor).unsqueeze(-1).unsqueeze(-1)
    beams = solve(at.quadratic / price + identity_like(at.quadratic), channels.downlink.mT) / price
    energy = squared_magnitude(beams).sum(-2)
    reached = (channels.downlink.conj() * beams.mT).real.sum(-1)  # g_j^H (A + mu I)^-1 g_j
    share = earned * energy / positive(reached * (1 - at.price * reached))
    total = share.sum(-1, keepdim=True)
    share = share / torch.where(limited.unsqueeze(-1), positive(total), total.clamp_min(1))
    scale = (at.own / positive(root(signal))) * root(share / positive(energy))
    return at.objective, beams * scale.unsqueeze(-2), root(power.clamp(0, 1))


def positive(values: Tensor) -> Tensor:
    """``values``, and 1 where they are not above 0: what is divided by them is 0 there, and its gradient too."""
    return torch.where(values > 0, values, 1)


def root(values: Tensor) -> Tensor:
    """The square root of what is above 0, else 0, with a gradient of 0 there."""
    return torch.where(values > 0, positive(values).sqrt(), 0)

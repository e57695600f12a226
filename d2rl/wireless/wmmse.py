"""Full-duplex WMMSE: alternating optimisation of the weighted sum rate (Shi et al., IEEE TSP 2011).

Batched, iterations in double precision; every one of them raises the weighted sum rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from d2rl.common.errors import InputError
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.link_rates import (
    add_noise,
    column_powers,
    identity_like,
    link_rates,
    real_diagonal,
    solve,
    squared_magnitude,
)
from d2rl.wireless.starting_points import MAXIMUM_STARTS, starting_points

SECULAR_BISECTIONS = 6  # bring mu within a small factor of its root
SECULAR_STEPS = 5  # Newton converges quadratically from there


def wmmse(
    channels: ChannelState,
    iterations: int = 200,
    starts: int = 1,
    weights: Tensor | None = None,
    initial: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Local optimum of the weighted sum rate, the best over several starting points.

    :param channels: B states
    :param iterations: iterations from every start, 0 or more
    :param starts: starting points, 1 to 12, in the order of
        :func:`~d2rl.wireless.starting_points.starting_points`; the first is RZF at full power
    :param weights: [B, K_D + K_U], priority of every link; default 1
    :param initial: (precoder, uplink_power) to start from instead
    :returns: precoder [B, N_t, K_D] complex64 and uplink power [B, K_U]
    :raises InputError: channels that are not finite, weights that are negative or do not fit, a start that
        breaks the power limits, more starts than supported
    """
    if iterations < 0:
        raise InputError(f"wmmse needs 0 iterations or more, got {iterations}")
    start = prepare(channels, starts, weights, initial)
    precoder, power = improve(start.channels, start.precoder, start.power, start.weights, iterations)
    return start.best(precoder, power)


@dataclass(frozen=True)
class Start:
    """B states, each from S starting points side by side.

    :param channels: B S states
    :param weights: [B S, K_D + K_U]
    :param precoder: [B S, N_t, K_D]
    :param power: [B S, K_U]
    :param starts: S
    """

    channels: ChannelState
    weights: Tensor
    precoder: Tensor
    power: Tensor
    starts: int

    def best(self, precoder: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
        """Of the decisions [B S, ...] that a state's starts led to, the one of the highest weighted rate."""
        if self.starts == 1:
            return precoder, power
        rate = (self.weights * link_rates(self.channels, precoder, power)).sum(-1)
        best = rate.unflatten(0, (-1, self.starts)).argmax(-1)
        chosen = torch.arange(len(best), device=best.device) * self.starts + best
        return precoder[chosen], power[chosen]


def prepare(
    channels: ChannelState, starts: int, weights: Tensor | None, initial: tuple[Tensor, Tensor] | None
) -> Start:
    """What :func:`wmmse` was given, checked, every state repeated for each of its starts.

    :param channels: B states
    :param starts: starting points, 1 to 12
    :param weights: [B, K_D + K_U], priority of every link; None: 1
    :param initial: precoder [B, N_t, K_D] and uplink power [B, K_U] to start from instead
    :raises InputError: what :func:`wmmse` refuses
    """
    channels.validate()
    if not 1 <= starts <= MAXIMUM_STARTS:
        raise InputError(f"wmmse supports 1 to {MAXIMUM_STARTS} starts, got {starts}")
    if weights is None:
        weights = torch.ones(channels.batch, channels.links, device=channels.downlink.device)
    check_weights(channels, weights)
    if initial is None:
        precoder, power = starting_points(channels, starts, weights)
    else:
        precoder, power = check_decision(channels, *initial)
        starts = 1
    return Start(channels.repeat(starts), weights.repeat_interleave(starts, dim=0), precoder, power, starts)


def improve(
    channels: ChannelState, precoder: Tensor, power: Tensor, weights: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """Decisions after some iterations from given ones, which respect the limits; their weighted rate only rises.

    Checks nothing; :func:`wmmse` with ``initial`` does.

    :param channels: B states
    :param precoder: [B, N_t, K_D]
    :param power: [B, K_U]
    :param weights: [B, K_D + K_U], priority of every link
    :param iterations: 0 or more
    :returns: precoder and uplink power, in the precision of the channels
    """
    problem, weights = channels.double(), weights.double()
    precoder, amplitude = precoder.to(torch.complex128), power.double().sqrt()
    for _ in range(iterations):
        precoder, amplitude = wmmse_iteration(problem, precoder, amplitude, weights)
    return precoder.to(channels.downlink.dtype), amplitude.square().to(channels.downlink.real.dtype)


@dataclass(frozen=True)
class Receivers:
    """What both ends of every link make of a decision, and what a change of it would cost (docs/method.md, WMMSE).

    :param earned: [B, K_D], priority times SINR / (1 + SINR), what the power of a user's beam earns, nats
    :param u: [B, K_D], complex, receiver of a downlink user
    :param a: [B, K_D], weight of its error
    :param v: [B, N_r, K_U], complex, MMSE combiners
    :param b: [B, K_U], weight of an uplink user's error
    :param correlation: [B, K_U], v_k^H h_k
    :param costs: [B, K_D + K_U], nats that a downlink user's beam, or a user's p at 1, costs all other links
    :param price: [B, K_D], a_j |u_j|^2, what a unit of interference costs a downlink user
    :param quadratic: [B, N_t, N_t], complex, A
    :param objective: [B], weighted sum rate, bit/s/Hz
    """

    earned: Tensor
    u: Tensor
    a: Tensor
    v: Tensor
    b: Tensor
    correlation: Tensor
    costs: Tensor
    price: Tensor
    quadratic: Tensor
    objective: Tensor


def receivers(channels: ChannelState, precoder: Tensor, amplitude: Tensor, weights: Tensor) -> Receivers:
    """The receivers that are best for a decision, and their errors.

    :param channels: B states in double precision
    :param precoder: [B, N_t, K_D]
    :param amplitude: [B, K_U], q_k = sqrt(p_k)
    :param weights: [B, K_D + K_U]
    """
    h_s, g, h = channels.self_interference, channels.downlink.mT, channels.uplink.mT
    users = channels.downlink_users, channels.uplink_users
    priority_down, priority_up = weights.split(users, dim=-1)

    streams = h * amplitude.unsqueeze(-2)
    arriving = torch.cat([h_s @ precoder, streams], dim=-1)
    v = solve(add_noise(arriving @ arriving.mH), streams)
    combined = v.mH @ h
    correlation = real_diagonal(combined)
    listening = torch.cat([g, h_s.mH @ v], dim=-1)  # how each link hears the base station

    # errors are sums over the others: 1 minus what is received would be lost in rounding for a strong link
    beams = listening.mH @ precoder
    streams_heard = torch.cat([squared_magnitude(channels.cross).mT, squared_magnitude(combined)], dim=-2)
    received = torch.cat([squared_magnitude(beams), streams_heard], dim=-1)
    interference = received * (1 - identity_like(received))
    sent = torch.cat([torch.ones_like(priority_down), amplitude.square()], dim=-1)
    at_users, at_combiners = (interference @ sent.unsqueeze(-1)).squeeze(-1).split(users, dim=-1)

    own, signal = (each.diagonal(dim1=-2, dim2=-1)[..., : users[0]] for each in (beams, received))
    disturbance = at_users + 1
    total = signal + disturbance
    u = own / total
    a = priority_down * total / disturbance
    error = (1 - amplitude * correlation).square() + at_combiners + column_powers(v)
    b = priority_up / error

    earned = priority_down * signal / total
    price = earned / disturbance
    prices = torch.cat([price, b], dim=-1).unsqueeze(-2)
    costs = (prices @ interference).squeeze(-2)
    quadratic = (listening * prices) @ listening.mH
    objective = (priority_down * torch.log2(total / disturbance)).sum(-1) - (priority_up * torch.log2(error)).sum(-1)
    return Receivers(earned, u, a, v, b, correlation, costs, price, quadratic, objective)


def wmmse_iteration(
    channels: ChannelState,
    precoder: Tensor,
    amplitude: Tensor,
    weights: Tensor,
    constrained: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """One round of receivers, weights, precoders and uplink amplitudes (docs/method.md, WMMSE).

    :param channels: B states in double precision
    :param precoder: [B, N_t, K_D]
    :param amplitude: [B, K_U], q_k = sqrt(p_k)
    :param weights: [B, K_D + K_U]
    :param constrained: argmin of tr(W^H A W) - 2 Re tr(C^H W) for A and C under the limits; default: ||W||^2 <= 1
    :returns: the next precoder and amplitude
    """
    at = receivers(channels, precoder, amplitude, weights)
    target = channels.downlink.mT * (at.a * at.u).unsqueeze(-2)
    next_precoder = (constrained or _power_constrained)(at.quadratic, target)
    heard = at.costs[..., channels.downlink_users :] + at.b * at.correlation.square()
    next_amplitude = (at.b * at.correlation / heard.clamp_min(1e-300)).clamp(0, 1)
    return next_precoder, next_amplitude


def check_weights(channels: ChannelState, weights: Tensor) -> None:
    """Refuse link weights for which no decision is the best.

    :param channels: B states
    :param weights: [B, K_D + K_U]
    :raises InputError: weights that are negative, not finite or do not fit the channels
    """
    if weights.shape != (channels.batch, channels.links):
        raise InputError(
            f"link weights have shape {tuple(weights.shape)}, channels ask for {(channels.batch, channels.links)}"
        )
    if not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        raise InputError("link weights must be finite and not negative")


def check_decision(channels: ChannelState, precoder: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
    """Refuse a decision that breaks the power limits; take off what rounding put above them.

    :raises InputError: wrong shapes, uplink power outside [0, 1] or a precoder of more than unit power
    """
    shapes = {
        "precoder": (precoder, (channels.batch, channels.transmit_antennas, channels.downlink_users)),
        "uplink_power": (power, (channels.batch, channels.uplink_users)),
    }
    for name, (tensor, shape) in shapes.items():
        if tensor.shape != shape:
            raise InputError(f"{name} has shape {tuple(tensor.shape)}, channels ask for {shape}")
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{name} holds NaN or infinite values")
    if bool((power < 0).any()) or bool((power > 1 + 1e-5).any()):
        raise InputError(f"uplink powers must lie in [0, 1], got {float(power.min()):g} to {float(power.max()):g}")
    total = squared_magnitude(precoder).sum((-2, -1))
    if bool((total > 1 + 1e-4).any()):
        raise InputError(f"the precoder's total power must be at most 1, got {float(total.max()):g}")
    return precoder / total.clamp_min(1).sqrt()[:, None, None], power.clamp(0, 1)


def _power_constrained(quadratic: Tensor, target: Tensor) -> Tensor:
    """argmin of tr(W^H A W) - 2 Re tr(C^H W) subject to ||W||^2 <= 1: W = (A + mu I)^-1 C.

    mu solves the secular equation ||W(mu)|| = 1, where ||W(mu)||^2 = sum_i e_i / (lambda_i + mu)^2. Newton's
    method on 1 / ||W(mu)|| approaches the root from below (More and Sorensen, 1983), fast unless users that
    are nearly switched off leave a pole far below the root; so a bisection on the scale of log(mu) comes first.
    """
    values, vectors = torch.linalg.eigh(quadratic)
    rotated = vectors.mH @ target
    energy = squared_magnitude(rotated).sum(-1)
    values = values.clamp_min(0)
    floor = (values[..., -1] * 1e-14).clamp_min(1e-100)  # not 0: A and C may both be 0
    # at the root every partial sum is at most 1, and one term is at least 1 / N_t
    low = torch.maximum((energy.cumsum(-1).sqrt() - values).amax(-1), floor)
    high = torch.maximum(((energy * energy.shape[-1]).sqrt() - values).amax(-1), low)
    for _ in range(SECULAR_BISECTIONS):
        middle = (low * high).sqrt()
        above = (energy / (values + middle.unsqueeze(-1)).square()).sum(-1) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    mu = low
    for _ in range(SECULAR_STEPS):
        shifted = 1 / (values + mu.unsqueeze(-1))
        norm2 = (energy * shifted.square()).sum(-1)
        slope = (energy * shifted.pow(3)).sum(-1)
        step = norm2 / slope.clamp_min(1e-300) * (norm2.clamp_min(1e-300).sqrt() - 1)
        mu = mu + step.clamp_min(0)
    shifted = 1 / (values + mu.unsqueeze(-1))
    precoder = vectors @ (rotated * shifted.unsqueeze(-1))
    norm = squared_magnitude(precoder).sum((-2, -1), keepdim=True).sqrt()
    return precoder / norm.clamp_min(1)

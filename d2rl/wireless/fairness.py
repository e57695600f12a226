"""The largest rate that all users can have at once, and WMMSE under objectives other than the weighted sum."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from d2rl.common.errors import InputError
from d2rl.wireless.antenna_power import AntennaPrices, within_antenna_power
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.energy import efficient_wmmse
from d2rl.wireless.link_rates import Decision, link_rates, solve, squared_magnitude
from d2rl.wireless.objectives import ENERGY, MAX_MIN, MINIMUM, Objective
from d2rl.wireless.precoders import full_uplink_power, rzf
from d2rl.wireless.wmmse import wmmse_iteration

STEPS = 200  # of the fixed point, which converges geometrically


def fair_wmmse(
    channels: ChannelState,
    weights: Tensor,
    objective: Objective,
    iterations: int = 200,
    antenna_power: float | None = None,
) -> Decision:
    """A good decision by an objective: WMMSE from RZF, with weights that follow the rates.

    A minimum is sought from where all links have about the same rate, since a link that is off stays off, and limits on
    antennas are kept only after a stage without them, which decides faster who is served.

    :param weights: [B, K_D + K_U]
    :param iterations: of each of its stages
    :param antenna_power: limit of every antenna, in units of 1 / N_t; None: there is none
    :returns: precoder [B, N_t, K_D] and uplink power [B, K_U]
    """
    decision = rzf(channels), full_uplink_power(channels)
    stages = [(objective, antenna_power)]
    if antenna_power is not None and objective.kind != ENERGY:
        stages.insert(0, (objective, None))
    if objective.kind == MINIMUM:
        stages.insert(0, (replace(objective, kind=MAX_MIN), None))
    for sought, limit in stages:
        decision = improve_by(sought, channels, *decision, weights, iterations, limit)
    return decision


def improve_by(
    objective: Objective,
    channels: ChannelState,
    precoder: Tensor,
    power: Tensor,
    weights: Tensor,
    iterations: int,
    antenna_power: float | None = None,
) -> Decision:
    """The best decision by an objective among a given one and those of WMMSE iterations from it.

    :param precoder: [B, N_t, K_D]
    :param power: [B, K_U]
    :param weights: [B, K_D + K_U]
    :param antenna_power: limit of every antenna, in units of 1 / N_t; None: there is none
    :returns: precoder and uplink power, in the precision of the channels
    """
    if objective.kind == ENERGY:
        return efficient_wmmse(channels, precoder, power, weights, objective.consumption, iterations, antenna_power)
    problem, weights = channels.double(), weights.double()
    prices = None if antenna_power is None else AntennaPrices(antenna_power)
    found = within_antenna_power(precoder.to(torch.complex128), antenna_power), power.double().sqrt()
    best, highest = found, None
    for turn in range(iterations + 1):
        rates = link_rates(problem, found[0], found[1].square())
        score = objective.score(rates, weights)
        better = torch.ones_like(score, dtype=torch.bool) if highest is None else score > highest
        highest = score if highest is None else torch.maximum(score, highest)
        best = torch.where(better[:, None, None], found[0], best[0]), torch.where(better[:, None], found[1], best[1])
        if turn < iterations:
            if prices is not None and not turn:  # receivers of full power ask for more than the limits allow, so that
                found = _at_full_power(found[0]), found[1]  # they are reached at once and not by steps of 1 / SINR
            found = wmmse_iteration(problem, *found, objective.slope(rates, weights), prices)
    return best[0].to(channels.downlink.dtype), best[1].square().to(channels.downlink.real.dtype)


def _at_full_power(precoder: Tensor) -> Tensor:
    """Precoders of total power 1, whatever a single antenna then has."""
    return precoder / squared_magnitude(precoder).sum((-2, -1), keepdim=True).clamp_min(1e-300).sqrt()


def common_rate(channels: ChannelState, weights: Tensor) -> Tensor:
    """A rate that no decision can give to all wanted links at once, [B]; exact where one direction is alone.

    With both it is the smaller one of what each direction could have without the other.
    """
    rates = []
    for direction in channels.directions():
        wanted = weights[:, : direction.links] if direction.downlink_users else weights[:, -direction.links :]
        reached = link_rates(direction, *max_min(direction, wanted))
        rates.append(reached.masked_fill(wanted <= 0, float("inf")).amin(-1))
    return torch.stack(rates).amin(0)


def max_min(channels: ChannelState, weights: Tensor | None = None) -> Decision:
    r"""Precoder and uplink power that maximise the smallest link rate in a cell of one direction.

    All rates are equal there, and the powers are the fixed point of

    .. math:: q_k \leftarrow \frac{c}{g_k^H (I + \sum_{i \ne k} q_i g_i g_i^H)^{-1} g_k}

    with c such that :math:`\max_k q_k = 1` (uplink), or :math:`\sum_k q_k = 1` in the dual uplink of the downlink, from
    which its beams follow (Schubert and Boche, IEEE TVT 2004; Cai, Quek, Tan and Low, IEEE TSP 2012).

    :param channels: B states without uplink, or without downlink; users without a channel are left out
    :param weights: [B, K], of which only those above 0 are served; default: all
    :returns: precoder [B, N_t, K_D] and uplink power [B, K_U]
    :raises InputError: users in both directions, for which no exact method is known
    """
    channels.validate()
    if not channels.half_duplex:
        raise InputError("max_min is exact for users in one direction alone; with both there is fair_wmmse.")
    downlink = channels.downlink_users > 0
    vectors = (channels.downlink if downlink else channels.uplink).to(torch.complex128)
    served = squared_magnitude(vectors).sum(-1) > 0
    if weights is not None:
        served = served & (weights > 0)
        vectors = vectors * served.unsqueeze(-1)
    powers = served.double()
    for _ in range(STEPS):
        powers = torch.where(served, 1 / _gains(vectors, powers), 0.0)
        total = powers.sum(-1, keepdim=True) if downlink else powers.amax(-1, keepdim=True)
        powers = powers / total.clamp_min(1e-300)
    real = channels.downlink.real.dtype
    if not downlink:
        return channels.downlink.new_zeros(len(vectors), channels.transmit_antennas, 0), powers.to(real)
    reached = (powers * _gains(vectors, powers)).masked_fill(~served, float("inf")).amin(-1)
    precoder = _dual_beams(vectors, powers, served, reached).to(channels.downlink.dtype)
    return precoder, powers.new_zeros(len(vectors), 0).to(real)


def _gains(vectors: Tensor, powers: Tensor) -> Tensor:
    """g_k^H (I + sum over the others of q_i g_i g_i^H)^-1 g_k of every user, [B, K]."""
    heard = _heard(vectors, powers)
    whole = (vectors.conj() * solve(heard, vectors.mT).mT).sum(-1).real
    return whole / (1 - powers * whole).clamp_min(1e-12)  # the inverse without user k, by Sherman and Morrison


def _heard(vectors: Tensor, powers: Tensor) -> Tensor:
    """I + sum_i q_i g_i g_i^H."""
    identity = torch.eye(vectors.shape[-1], dtype=vectors.dtype, device=vectors.device)
    return identity + (vectors.mT * powers.unsqueeze(-2)) @ vectors.conj()


def _dual_beams(vectors: Tensor, powers: Tensor, served: Tensor, target: Tensor) -> Tensor:
    """Downlink beams of total power 1 that give every user served the SINR ``target``: the dual uplink's receivers."""
    beams = solve(_heard(vectors, powers), vectors.mT)
    beams = beams / squared_magnitude(beams).sum(-2, keepdim=True).clamp_min(1e-300).sqrt()
    received = squared_magnitude(vectors.conj() @ beams)
    own = torch.where(served, received.diagonal(dim1=-2, dim2=-1) * (1 + 1 / target.unsqueeze(-1)), 1.0)
    shares = solve(torch.diag_embed(own) - received, served.to(own.dtype).unsqueeze(-1)).squeeze(-1).clamp_min(0)
    return beams * (shares / shares.sum(-1, keepdim=True).clamp_min(1e-300)).sqrt().unsqueeze(-2)

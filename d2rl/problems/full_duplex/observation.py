"""What the agent sees of a cell: users as nodes, the channels between them as edges."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from d2rl.common.notices import notice_once
from d2rl.common.tensor_struct import TensorStruct
from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.base import Layout, Observation
from d2rl.problems.full_duplex.scenario_bank import scenario_bank
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.heads import beam_basis, uplink_combiners
from d2rl.wireless.link_rates import column_powers, link_rates, real_diagonal, squared_magnitude, unit_columns
from d2rl.wireless.precoders import full_uplink_power, regularised_inverses, rzf, user_gram
from d2rl.wireless.propagation import log_gain

NODE_FEATURES = 7
EDGE_FEATURES = 4
SPREADS = 3  # of the log weight: what lies further out is hardly seen in training
BITS = 10.0  # a feature of 1 is 10 bit/s/Hz


@dataclass(frozen=True)
class KnownCell(TensorStruct):
    """What decisions and critics need beside the features.

    :param channels: estimated channels
    :param basis: [B, N_t, K], :func:`beam_basis` in the precision of the channels
    """

    channels: ChannelState
    basis: Tensor


def observe(channels: ChannelState, weights: Tensor, numbers: tuple[int, int] = (2, 2)) -> Observation:
    """Features of the channels; unchanged by antenna order, equivariant to user order.

    A node knows its direction, its gain, its gain after MMSE suppression of the others, its part in
    self-interference, its rate under RZF at full power, and its weight. An edge knows the
    interference between two links with matched beams, both ways (downlink: |g_i^H g_j|, uplink:
    |v_i^H h_k|, uplink to downlink: |f_kj|, downlink to uplink: |v_k^H H_S g_j|), how parallel the
    two channels are, and whether the links share a direction.

    :param channels: B states as the agent knows them
    :param weights: [B, K_D + K_U], priority of every link
    :param numbers: of an action for a downlink and for an uplink user; those of the structured head by default
    :returns: nodes [B, K, NODE_FEATURES], the last of them of the priority; edges [B, K, K, EDGE_FEATURES]; as baseline
        the link rates of RZF at full power, bit/s/Hz
    """
    k_d, g, h = channels.downlink_users, channels.downlink, channels.uplink
    gram_down, gram_up = user_gram(g), user_gram(h)
    inverse_down, inverse_up, inverse_rzf = regularised_inverses((gram_down, 1), (gram_up, 1), (gram_down, k_d))
    combiners = uplink_combiners(channels, inverse_up)
    basis = beam_basis(channels, combiners).to(g.dtype)
    beams = basis[..., :k_d]
    received = log_gain(_received(channels, combiners, beams))
    matched = unit_columns(h.mT)
    parallel = _blocks(squared_magnitude(beams.mH @ beams), squared_magnitude(matched.mH @ matched))
    layout = Layout((k_d, channels.uplink_users), numbers)
    kinds = layout.kinds(parallel.device)
    same = (kinds == kinds.mT).to(parallel.dtype).expand_as(parallel)
    edges = torch.stack([received, received.mT, parallel, same], dim=-1)

    leaks_out = column_powers(channels.self_interference @ beams)
    leaks_in = column_powers(channels.self_interference.mH @ combiners)
    leaks = torch.cat([leaks_out, leaks_in], dim=-1)
    gain = torch.cat([column_powers(g.mT), column_powers(h.mT)], dim=-1)
    suppressed = suppressed_gain(inverse_down, inverse_up).to(gain.dtype)
    reference = link_rates(channels, rzf(channels, inverse_rzf), full_uplink_power(channels))
    direction = torch.cat([kinds == 0, kinds != 0], dim=-1).to(gain.dtype).expand(*gain.shape, -1)
    gains = [gain, suppressed, torch.zeros_like(leaks) if channels.half_duplex else leaks]
    others = torch.stack([reference / BITS, log_weight(weights)], dim=-1)
    nodes = torch.cat([direction, log_gain(torch.stack(gains, dim=-1)), others], dim=-1)
    return Observation(nodes, edges, weights, reference, KnownCell(channels, basis), layout)


def notice_priorities(scenario: FullDuplexConfig, weights: Tensor) -> None:
    """Say, once, that link weights lie outside of what training in ``scenario`` shows a policy.

    :param weights: asked for, of any shape
    """
    reach = math.exp(SPREADS * math.hypot(scenario.priority_direction, scenario.priority_user))
    low, high, zero = 1 / reach, reach, scenario.priority_zero > 0
    if scenario.channel_bank:  # its own weights are multiplied by those that are drawn
        own = scenario_bank(scenario).weights
        least, most = own[own > 0].aminmax()
        low, high, zero = low * float(least), high * float(most), zero or bool((own == 0).any())
    least, most = weights.where(weights > 0, low if zero else 0.0).aminmax()
    if float(least) < low * (1 - 1e-6) or float(most) > high * (1 + 1e-6):
        notice_once(
            f"link weights were asked for that the policy was not trained with ({low:.2g} to {high:.2g}"
            f"{', or 0' if zero else ', never 0'}): its decisions may be far from the best. In training, larger "
            "scenario.priority_direction and scenario.priority_user widen the range, scenario.priority_zero adds 0."
        )


def flat_cell(observation: Observation) -> Tensor:
    """Real and imaginary parts of every coefficient, magnitudes on a log scale, and log priorities: [B, flat]."""
    channels = observation.known.channels
    flat = torch.cat([tensor.flatten(1) for tensor in channels.active().values()], dim=-1)
    magnitude = flat.abs()
    compressed = flat * (torch.log10(1 + magnitude) / magnitude.clamp_min(1e-12))
    return torch.cat([torch.view_as_real(compressed.resolve_conj()).flatten(1), log_weight(observation.weights)], -1)


def suppressed_gain(*inverses: Tensor) -> Tensor:
    """Signal-to-noise ratio of each user after linear MMSE suppression of the others: [B, K], set after set of users.

    :param inverses: [B, n, n] each, (I + H^H H)^-1 of the channels of a set of n users
    """
    errors = torch.cat([real_diagonal(inverse) for inverse in inverses], dim=-1)
    return (1 / errors - 1).clamp_min(0)


def _received(channels: ChannelState, combiners: Tensor, precoder: Tensor) -> Tensor:
    """Power that link i (row) receives from link j (column) at full uplink power, noise 1: [B, K, K]."""
    to_downlink = [squared_magnitude(channels.downlink.conj() @ precoder), squared_magnitude(channels.cross).mT]
    to_uplink = [
        squared_magnitude(combiners.mH @ channels.self_interference @ precoder),
        squared_magnitude(combiners.mH @ channels.uplink.mT),
    ]
    return torch.cat([torch.cat(to_downlink, dim=-1), torch.cat(to_uplink, dim=-1)], dim=-2)


def _blocks(down: Tensor, up: Tensor) -> Tensor:
    """Block-diagonal [B, K, K] from [B, K_D, K_D] and [B, K_U, K_U]."""
    upper = torch.nn.functional.pad(down, (0, up.shape[-1]))
    lower = torch.nn.functional.pad(up, (down.shape[-1], 0))
    return torch.cat([upper, lower], dim=-2)


def log_weight(weights: Tensor) -> Tensor:
    """The feature of priorities, of any shape."""
    return torch.log(weights.clamp_min(1e-3))

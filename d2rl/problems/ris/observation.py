"""What the agent sees of a state: users and elements as nodes, what an element does for a user as an edge."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from d2rl.common.tensor_struct import TensorStruct
from d2rl.problems.base import Layout, Observation
from d2rl.problems.ris.channels import Decision, SurfaceChannels, rate_pulls
from d2rl.problems.ris.simulator import SurfaceState
from d2rl.wireless.link_rates import downlink_powers, squared_magnitude
from d2rl.wireless.precoders import full_uplink_power, regularised_inverses, user_gram
from d2rl.wireless.propagation import log_gain

NODE_FEATURES = 9
EDGE_FEATURES = 4
BITS = 10.0  # a feature of 1 is 10 bit/s/Hz


@dataclass(frozen=True)
class KnownSurface(TensorStruct):
    """What decisions and critics need beside the features.

    :param channels: as the base station knows them
    :param reflection: [B, N], complex; phases of the simple decision, from which an action turns
    """

    channels: SurfaceChannels
    reflection: Tensor


def observe(state: SurfaceState, simple: Decision, layout: Layout) -> Observation:
    """Features at a simple decision; equivariant to the order of users and of elements, unchanged by that of antennas.

    A user knows its channel's gain, the direct path's, its gain after MMSE suppression of the others, its rate and its
    priority; an element where the gradient of the sum rate would turn it. An edge between two users tells what each
    receives of the other's beam and how parallel their channels are, one between a user and an element the two pulls,
    as complex numbers relative to the phase that the element has.

    :param simple: phases and beams without learning
    :returns: nodes [B, K + N, NODE_FEATURES], the last of them of the priority; edges [B, K + N, K + N,
        EDGE_FEATURES]; as baseline the rates of the simple decision, 0 for elements
    """
    channels, (reflection, precoder) = state.channels, simple
    cell = channels.effective(reflection)
    elements = layout.counts[1]
    received = cell.downlink.conj() @ precoder
    signal, disturbance = downlink_powers(cell, precoder, full_uplink_power(cell))
    rate = torch.log2(1 + signal / disturbance)
    to_signal, to_interference = rate_pulls(channels, simple)
    known = KnownSurface(channels, reflection)

    gain, direct = (squared_magnitude(tensor).sum(-1) for tensor in (cell.downlink, channels.direct))
    (inverse,) = regularised_inverses((user_gram(cell.downlink), 1))
    suppressed = (1 / inverse.diagonal(dim1=-2, dim2=-1).real - 1).clamp_min(0).to(gain.dtype)
    of_users = torch.stack([log_gain(gain), log_gain(direct), log_gain(suppressed), rate / BITS], dim=-1)
    gradient = (to_signal - to_interference).sum(-2)
    scale = reflection.conj() / squared_magnitude(gradient).mean(-1, keepdim=True).clamp_min(1e-30).sqrt()
    of_elements = torch.view_as_real(compressed(gradient * scale))
    kinds = layout.kinds(rate.device)
    kinds = torch.cat([kinds == 0, kinds == 1], dim=-1).to(rate.dtype).expand(len(rate), -1, -1)
    own_features = torch.cat([F.pad(of_users, (0, 2)), F.pad(of_elements, (4, 0))], dim=-2)
    nodes = torch.cat([kinds, own_features, log_priority(state.weights, layout)], dim=-1)

    heard = log_gain(squared_magnitude(received))
    matched = cell.downlink / gain.clamp_min(1e-30).sqrt().unsqueeze(-1)
    parallel = squared_magnitude(matched.conj() @ matched.mT)
    between_users = torch.stack([heard, heard.mT, parallel, torch.zeros_like(parallel)], dim=-1)
    pulls = torch.stack([to_signal, to_interference], dim=-1) * scale[:, None, :, None]
    to_elements = torch.view_as_real(compressed(pulls)).flatten(-2)
    upper = torch.cat([between_users, to_elements], dim=-2)
    lower = F.pad(to_elements.transpose(1, 2), (0, 0, 0, elements))
    baseline = F.pad(rate, (0, elements))
    return Observation(nodes, torch.cat([upper, lower], dim=1), state.weights, baseline, known, layout)


def flat_channels(observation: Observation) -> Tensor:
    """Real and imaginary parts of every coefficient on a log scale, and log priorities: [B, flat].

    The surface's two channels are brought to one scale: only their product matters.
    """
    c, users = observation.known.channels, observation.layout.counts[0]
    strength = squared_magnitude(c.feed).mean((-2, -1), keepdim=True).clamp_min(1e-30).sqrt()
    parts = [c.direct, c.feed / strength, c.reflected * strength]
    flat = compressed(torch.cat([part.flatten(1) for part in parts], dim=-1))
    return torch.cat([torch.view_as_real(flat).flatten(1), observation.nodes[:, :users, -1]], dim=-1)


def compressed(values: Tensor) -> Tensor:
    """Complex numbers with log(1 + |z|) in the place of their magnitude.

    :param values: of any shape, complex
    """
    magnitude = values.abs()
    return values * (torch.log1p(magnitude) / magnitude.clamp_min(1e-12))


def log_priority(weights: Tensor, layout: Layout) -> Tensor:
    """Log priority of users, 0 for elements: [B, K + N, 1]."""
    users, elements = layout.counts
    return F.pad(torch.log(weights[:, :users].clamp_min(1e-3)), (0, elements)).unsqueeze(-1)

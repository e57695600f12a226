"""What the agent sees: the cell as the full-duplex problem shows it, and what waits for every link."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from d2rl.common.tensor_struct import TensorStruct
from d2rl.problems.base import Observation
from d2rl.problems.full_duplex.observation import BITS, EDGE_FEATURES
from d2rl.problems.full_duplex.observation import NODE_FEATURES as CELL_FEATURES
from d2rl.problems.traffic.simulator import TrafficState
from d2rl.wireless.channel_state import ChannelState

QUEUE_FEATURES = 7
NODE_FEATURES = CELL_FEATURES + QUEUE_FEATURES
SLOTS = 10.0  # a feature of 1 is this many slots

__all__ = ["EDGE_FEATURES", "NODE_FEATURES", "KnownTraffic", "queue_features", "with_queues"]


@dataclass(frozen=True)
class KnownTraffic(TensorStruct):
    """What decisions and critics need beside the features.

    :param channels: estimated channels      :param basis: of beams, see ``KnownCell``
    :param queues: [B, K], bit/s/Hz-slots
    """

    channels: ChannelState
    basis: Tensor
    queues: Tensor


def with_queues(cell: Observation, state: TrafficState) -> Observation:
    """The observation of a cell with what waits for its links.

    :param cell: of the channels; its baseline are the rates of RZF at full power
    :returns: nodes [B, K, NODE_FEATURES]; as baseline minus the backlog that those rates leave
    """
    queues = state.queues
    nodes = torch.cat([cell.nodes, queue_features(state, cell.baseline)], dim=-1)
    known = KnownTraffic(cell.known.channels, cell.known.basis, queues)
    baseline = (cell.baseline - queues).clamp_max(0)
    return Observation(nodes, cell.edges, cell.weights, baseline, known, cell.layout)


def queue_features(state: TrafficState, rate: Tensor) -> Tensor:
    """What a link knows of its queue, [B, K, QUEUE_FEATURES]: its length on three scales, the slots that it would
    take at ``rate``, the age of its head, and the mean and the latest arrivals.

    :param rate: [B, K] in bit/s/Hz
    """
    queues = state.queues
    features = [
        queues.clamp_max(BITS) / BITS,
        queues.clamp_max(4 * BITS) / (4 * BITS),
        torch.log1p(queues) / 4,
        torch.log1p(queues / (rate + 0.1)) / 4,
        torch.log1p(state.head_of_line) / 4,
        state.sources.rate / BITS,
        state.arrived.clamp_max(4 * BITS) / (4 * BITS),
    ]
    return torch.stack(features, dim=-1)

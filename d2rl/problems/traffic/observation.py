"""What the agent sees: the cell as the full-duplex problem shows it, and what waits for every link."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from d2rl.common.tensor_struct import TensorStruct
from d2rl.problems.full_duplex.observation import BITS
from d2rl.problems.full_duplex.observation import NODE_FEATURES as CELL_FEATURES
from d2rl.problems.traffic.objective import Waiting
from d2rl.problems.traffic.simulator import TrafficState
from d2rl.wireless.channel_state import ChannelState

QUEUE_FEATURES = 9
NODE_FEATURES = CELL_FEATURES + QUEUE_FEATURES
LONG = 4 * BITS  # a feature of 1 is this many bit/s/Hz-slots
DECADE = 4.0  # of the natural logarithm


@dataclass(frozen=True)
class KnownTraffic(TensorStruct):
    """What decisions and critics need beside the features.

    :param channels: estimated channels      :param basis: of beams, see ``KnownCell``
    :param waiting: what is known of the queues
    """

    channels: ChannelState
    basis: Tensor
    waiting: Waiting


def queue_features(state: TrafficState, waiting: Waiting, rate: Tensor) -> Tensor:
    """What a link knows of its queue, [B, K, QUEUE_FEATURES].

    Its length on three scales, the slots that it would take at ``rate``, what is due, the age of its head, the mean and
    the latest arrivals, and its throughput.

    :param rate: [B, K] in bit/s/Hz
    """
    queues = waiting.queues
    features = [
        queues.clamp_max(BITS) / BITS,
        queues.clamp_max(LONG) / LONG,
        torch.log1p(queues) / DECADE,
        torch.log1p(queues / (rate + 0.1)) / DECADE,
        waiting.due.clamp_max(LONG) / BITS,
        torch.log1p(state.head_of_line) / DECADE,
        state.sources.rate / BITS,
        state.arrived.clamp_max(LONG) / LONG,
        waiting.throughput / BITS,
    ]
    return torch.stack(features, dim=-1)

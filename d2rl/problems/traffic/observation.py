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
# of every link: bit/s/Hz-slots, of these due now, bit/s/Hz, slots, and bit/s/Hz-slots a slot
MEASUREMENTS = ("queue", "due", "throughput", "head_of_line", "mean_arrivals", "latest_arrivals")


@dataclass(frozen=True)
class KnownTraffic(TensorStruct):
    """What decisions and critics need beside the features.

    :param channels: estimated channels      :param basis: of beams, see ``KnownCell``
    :param waiting: what is known of the queues
    """

    channels: ChannelState
    basis: Tensor
    waiting: Waiting


def measured(state: TrafficState, waiting: Waiting) -> Tensor:
    """What the base station measures of each link beside channels, [B, K, 6]; :data:`MEASUREMENTS`."""
    own = waiting.queues, waiting.due, waiting.throughput, state.head_of_line, state.sources.rate, state.arrived
    return torch.stack(own, dim=-1)


def queue_features(measurements: Tensor, rate: Tensor) -> Tensor:
    """What a link knows of its queue, [B, K, QUEUE_FEATURES].

    Its length on three scales, the slots that it would take at ``rate``, what is due, the age of its head, the mean and
    the latest arrivals, and its throughput.

    :param measurements: of :func:`measured`      :param rate: [B, K] in bit/s/Hz
    """
    queues, due, throughput, head, mean, arrived = measurements.unbind(-1)
    features = [
        queues.clamp_max(BITS) / BITS,
        queues.clamp_max(LONG) / LONG,
        torch.log1p(queues) / DECADE,
        torch.log1p(queues / (rate + 0.1)) / DECADE,
        due.clamp_max(LONG) / BITS,
        torch.log1p(head) / DECADE,
        mean / BITS,
        arrived.clamp_max(LONG) / LONG,
        throughput / BITS,
    ]
    return torch.stack(features, dim=-1)

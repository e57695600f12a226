"""What arrives for every link: random sources with a state of their own, moved by nothing but their generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from d2rl.common.tensor_struct import TensorStruct
from d2rl.problems.traffic.settings import TrafficConfig


@dataclass(frozen=True)
class Sources(TensorStruct):
    """Sources of B cells.

    :param rate: [B, K], mean arrivals, bit/s/Hz-slots a slot
    :param on: [B, K] bool, whether a source is in a burst
    """

    rate: Tensor
    on: Tensor


class Arrivals:
    """How sources begin, move on, and what they bring.

    :param config: kind and size of the arrivals      :param counts: downlink and uplink users
    """

    def __init__(self, config: TrafficConfig, counts: tuple[int, int]):
        self.config, self.counts = config, counts
        self.share = config.on_share if config.arrivals == "on_off" else 1.0
        # a source goes off with probability 1 / burst, and on so often that the share of the time is kept
        self.ends = 1 / config.burst
        self.begins = min(1.0, self.ends * self.share / (1 - self.share)) if self.share < 1 else 1.0

    def reset(self, batch: int, generator: torch.Generator) -> Sources:
        """Sources of B new cells, in equilibrium; the load of a cell is common to its links."""
        c, (down, up), device = self.config, self.counts, generator.device
        low = c.load if c.load_low is None else c.load_low
        high = c.load if c.load_high is None else c.load_high
        load = low + (high - low) * torch.rand(batch, 1, generator=generator, device=device)
        mean = torch.cat([load.new_full((down,), c.downlink_rate), load.new_full((up,), c.uplink_rate)])
        on = torch.rand(batch, down + up, generator=generator, device=device) < self.share
        return Sources(load * mean, on)

    def advance(self, sources: Sources, generator: torch.Generator) -> tuple[Sources, Tensor]:
        """The sources after one slot, and what they brought in it: [B, K], bit/s/Hz-slots."""
        c = self.config
        intensity = sources.rate * sources.on / (self.share * c.packet)
        arrived = torch.poisson(intensity, generator=generator) * c.packet
        if self.share == 1:
            return sources, arrived
        draw = torch.rand(sources.rate.shape, generator=generator, device=generator.device)
        on = torch.where(sources.on, draw >= self.ends, draw < self.begins)
        return Sources(sources.rate, on), arrived

"""What arrives for every link: random sources with a state of their own, moved by nothing but their generator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from d2rl.common.errors import named_by
from d2rl.common.tensor_struct import TensorStruct
from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.traffic.settings import TrafficConfig
from d2rl.problems.traffic.trace import load_trace

FULL = 100.0  # bit/s/Hz-slots: more than any link can send in a slot


@dataclass(frozen=True)
class Sources(TensorStruct):
    """Sources of B cells.

    :param load: [B, K], of the cell      :param rate: [B, K], mean arrivals, bit/s/Hz-slots a slot
    :param on: [B, K] bool, whether a source is in a burst
    :param clock: [B, K] int64, slots until the next packet of a periodic source, or the next slot of a trace
    """

    load: Tensor
    rate: Tensor
    on: Tensor
    clock: Tensor


class Arrivals:
    """How sources begin, move on, and what they bring.

    :param config: kind and size of the arrivals      :param scenario: the cell
    """

    def __init__(self, config: TrafficConfig, scenario: FullDuplexConfig):
        self.config, self.scenario = config, scenario
        self.share = config.on_share if config.arrivals == "on_off" else 1.0
        # a source goes off with probability 1 / burst, and on so often that the share of the time is kept
        self.ends = 1 / config.burst
        self.begins = self.ends * self.share / (1 - self.share) if self.share < 1 else 1.0

    def trace(self, device: torch.device) -> Tensor:
        """Recorded arrivals, [S, K], bit/s/Hz-slots."""
        return recorded(str(self.config.trace), self.scenario).to(device)

    def reset(self, batch: int, generator: torch.Generator) -> Sources:
        """Sources of B new cells, in equilibrium; the load of a cell is common to its links."""
        c, device = self.config, generator.device
        down, up = self.scenario.downlink_users, self.scenario.uplink_users
        low = c.load if c.load_low is None else c.load_low
        high = c.load if c.load_high is None else c.load_high
        load = low + (high - low) * torch.rand(batch, 1, generator=generator, device=device)
        load = load.expand(-1, down + up).contiguous()
        drawn = torch.rand(batch, down + up, generator=generator, device=device)
        if c.arrivals == "trace":
            trace = self.trace(device)
            clock = (drawn[:, :1] * len(trace)).long().expand_as(load).contiguous()
            return Sources(load, load * trace.mean(0), drawn < 1, clock)
        shares = (down, c.downlink_rate), (up, c.uplink_rate)
        mean = torch.cat([load.new_full((users,), total / max(users, 1)) for users, total in shares])
        return Sources(load, load * mean, drawn < self.share, (drawn * c.period).long())

    def advance(self, sources: Sources, generator: torch.Generator) -> tuple[Sources, Tensor]:
        """The sources after one slot, and what they brought in it: [B, K], bit/s/Hz-slots."""
        c = self.config
        if c.arrivals == "full_buffer":
            return sources, torch.full_like(sources.rate, FULL)
        if c.arrivals == "periodic":
            due = sources.clock == 0
            clock = torch.where(due, c.period, sources.clock) - 1
            return replace(sources, clock=clock), sources.rate * c.period * due
        if c.arrivals == "trace":
            trace = self.trace(sources.rate.device)
            return replace(sources, clock=(sources.clock + 1) % len(trace)), trace[sources.clock[:, 0]] * sources.load
        intensity = sources.rate * sources.on / (self.share * c.packet)
        arrived = torch.poisson(intensity, generator=generator) * c.packet
        if c.packet_sizes == "exponential":
            uniform = torch.rand(arrived.shape, generator=generator, device=generator.device)
            arrived = arrived * -torch.log1p(-uniform)
        if self.share == 1:
            return sources, arrived
        draw = torch.rand(arrived.shape, generator=generator, device=generator.device)
        on = torch.where(sources.on, draw >= self.ends, draw < self.begins)
        return replace(sources, on=on), arrived


def recorded(path: str, scenario: FullDuplexConfig, slots: int = 1) -> Tensor:
    """The trace of a file, [S, K], in bit/s/Hz-slots.

    :param slots: that it must have at least
    :raises ConfigError: it cannot be used in this cell
    """
    links = scenario.downlink_users + scenario.uplink_users
    with named_by("traffic.trace"):
        bits = _read(path, links, slots)
    return bits / (scenario.bandwidth * scenario.slot * 1e3)


@lru_cache
def _read(path: str, links: int, slots: int) -> Tensor:
    return load_trace(path, links, slots)

"""What arrives for every link: random sources with a state of their own, moved by nothing but their generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from d2rl.common.errors import named_by
from d2rl.common.tensor_struct import TensorStruct
from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.traffic.kinds import kinds_of
from d2rl.problems.traffic.settings import TrafficConfig
from d2rl.problems.traffic.trace import load_trace

FULL = 100.0  # bit/s/Hz-slots: more than any link can send in a slot


@dataclass(frozen=True)
class Sources(TensorStruct):
    """Sources of B cells.

    :param load: [B, K], of the cell      :param rate: [B, K], mean arrivals, bit/s/Hz-slots a slot
    :param on: [B, K] bool, whether an on-off source is in a burst
    :param clock: [B, K] int64, slots until the next packet of a periodic source, or the next slot of a trace
    """

    load: Tensor
    rate: Tensor
    on: Tensor
    clock: Tensor


class Arrivals:
    """How sources begin, move on, and what they bring.

    Every kind that a cell has draws for all links, so that what one link gets does not depend on the kinds of others
    that draw nothing: the links of ``on_off+periodic`` have the very arrivals of cells of one kind.

    :param config: kinds and size of the arrivals      :param scenario: the cell
    """

    def __init__(self, config: TrafficConfig, scenario: FullDuplexConfig):
        self.config, self.scenario = config, scenario
        self.kinds = kinds_of(config.arrivals, scenario)
        self.share = config.on_share if "on_off" in self.kinds else 1.0
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
        shares = (down, c.downlink_rate), (up, c.uplink_rate)
        mean = torch.cat([load.new_full((users,), total / max(users, 1)) for users, total in shares])
        clock = (drawn * c.period).long()
        if "trace" in self.kinds:  # all links of a cell begin at the same of its slots
            trace, first = self.trace(device), self.kinds.index("trace")
            mean = self._by_kind({"trace": trace.mean(0)}, mean)
            clock = self._by_kind({"trace": (drawn[:, first : first + 1] * len(trace)).long()}, clock)
        return Sources(load, load * mean, drawn < self.share, clock)

    def advance(self, sources: Sources, backlog: Tensor, generator: torch.Generator) -> tuple[Sources, Tensor]:
        """The sources after one slot, and what they brought in it: [B, K], bit/s/Hz-slots.

        :param backlog: [B, K], what waits before; full buffers are filled up
        """
        c = self.config
        came: dict[str, Tensor] = {}
        clocks: dict[str, Tensor] = {}
        if "full_buffer" in self.kinds:
            came["full_buffer"] = FULL - backlog
        if "periodic" in self.kinds:
            due = sources.clock == 0
            came["periodic"] = sources.rate * c.period * due
            clocks["periodic"] = torch.where(due, c.period, sources.clock) - 1
        if "trace" in self.kinds:
            trace = self.trace(backlog.device)
            slot = sources.clock % len(trace)
            came["trace"] = trace.gather(0, slot) * sources.load
            clocks["trace"] = (slot + 1) % len(trace)
        if "on_off" in self.kinds or "poisson" in self.kinds:
            came["on_off"] = came["poisson"] = self._packets(sources, generator)
        moved = replace(sources, clock=self._by_kind(clocks, sources.clock))
        if self.share < 1:
            draw = torch.rand(backlog.shape, generator=generator, device=generator.device)
            moved = replace(moved, on=torch.where(sources.on, draw >= self.ends, draw < self.begins))
        return moved, self._by_kind(came, torch.zeros_like(backlog))

    def _packets(self, sources: Sources, generator: torch.Generator) -> Tensor:
        """Poisson packets in a slot, of an on-off source while it is on, [B, K]."""
        packet = self.config.packet
        intensity = sources.rate * sources.on / (self.share * packet)
        if "poisson" in self.kinds:
            intensity = self._by_kind({"poisson": sources.rate / packet}, intensity)
        arrived = torch.poisson(intensity, generator=generator) * packet
        if self.config.packet_sizes == "exponential":
            uniform = torch.rand(arrived.shape, generator=generator, device=generator.device)
            arrived = arrived * -torch.log1p(-uniform)
        return arrived

    def _by_kind(self, values: Mapping[str, Tensor], others: Tensor) -> Tensor:
        """Of every link the value of its kind, [K] or [B, K].

        :param others: of links whose kind has none
        """
        for kind, value in values.items():
            if kind in self.kinds:
                others = torch.where(links_of(kind, self.kinds, others.device), value, others)
        return others


@lru_cache
def links_of(kind: str, kinds: tuple[str, ...], device: torch.device) -> Tensor:
    """Which links have this kind, [K] bool."""
    return torch.tensor([one == kind for one in kinds], device=device)


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

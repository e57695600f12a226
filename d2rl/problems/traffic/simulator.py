"""Cells with queues, batched: what waits, what is sent, what arrives, slot after slot."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from d2rl.common.tensor_struct import TensorStruct
from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.full_duplex.simulator import Cells, CellState, rates_of
from d2rl.problems.traffic.arrivals import Arrivals, Sources
from d2rl.problems.traffic.queues import arrived_only, grow_older, head_of_line, serve
from d2rl.problems.traffic.settings import TrafficConfig
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.link_rates import squared_magnitude

Decision = tuple[Tensor, Tensor]  # precoder [B, N_t, K_D], total power 1 at most; uplink power [B, K_U] in [0, 1]


@dataclass(frozen=True)
class TrafficState(TensorStruct):
    """B cells at the moment of a decision. Links are downlink first, bits are in bit/s/Hz-slots.

    :param cell: channels, and what the base station knows of them
    :param bits: [B, K, A], what waits by age, the oldest first
    :param sources: of the arrivals
    :param arrived: [B, K], what arrived in the slot before
    :param throughput: [B, K], bit/s/Hz, average of what was served, over about ``window`` slots
    """

    cell: CellState
    bits: Tensor
    sources: Sources
    arrived: Tensor
    throughput: Tensor

    @property
    def queues(self) -> Tensor:
        """What waits for every link, [B, K]."""
        return self.bits.sum(-1)

    @property
    def head_of_line(self) -> Tensor:
        """Slots that the oldest bit of every link has waited, [B, K]."""
        return head_of_line(self.bits)

    @property
    def weights(self) -> Tensor:
        """[B, K], priority of every link."""
        return self.cell.weights


@dataclass(frozen=True)
class Record(TensorStruct):
    """What one slot brought.

    :param arrived: [B, K], at its end      :param backlog: [B, K], what waited after service
    :param delays: [B, K, A], what was served by its delay, from A - 1 slots or more down to 0
    :param energy: [B], radiated by base station and users, J
    """

    arrived: Tensor
    backlog: Tensor
    delays: Tensor
    energy: Tensor

    def plus(self, other: Record) -> Record:
        """The sum of both."""
        tensors = other.tensors()
        return self.with_tensors({name: tensor + tensors[name] for name, tensor in self.tensors().items()})


class TrafficCells:
    """How cells with queues begin and move on.

    :param traffic: arrivals and queues      :param scenario: the cell      :param seed: of a fixed set of states
    """

    def __init__(self, traffic: TrafficConfig, scenario: FullDuplexConfig, seed: int = 0):
        self.traffic, self.scenario = traffic, scenario
        self.cells = Cells(scenario, seed)
        self.arrivals = Arrivals(traffic, (scenario.downlink_users, scenario.uplink_users))
        # dBm x ms -> J
        self.energy = [10 ** (power / 10) * 1e-6 * scenario.slot for power in (scenario.bs_power, scenario.user_power)]

    def reset(self, batch: int, generator: torch.Generator) -> TrafficState:
        """B new cells, in whose queues is what arrived in one slot."""
        return self._begun(self.cells.reset(batch, generator), generator)

    def step(
        self, state: TrafficState, decision: Decision, generator: torch.Generator
    ) -> tuple[TrafficState, TrafficState, Tensor, Record]:
        """Serve, then let arrive, then move on.

        :returns: what the cells become; the states to go on from, new cells where an episode ended; [B] bool, whose
            ended; what the slot brought
        """
        rates = rates_of(state.cell.channels, *decision).squeeze(1)
        remaining, served = serve(state.bits, rates)
        cell, fresh, truncated = self.cells.advance(state.cell, generator)
        sources, arrived = self.arrivals.advance(state.sources, generator)
        record = Record(arrived, remaining.sum(-1), served, self._energy(decision))
        throughput = state.throughput.lerp(served.sum(-1), 1 / self.traffic.window)
        following = TrafficState(cell, grow_older(remaining, arrived), sources, arrived, throughput)
        ended = slice((-cell.slot) % self.scenario.episode_length, None, self.scenario.episode_length)
        count = len(range(*ended.indices(state.batch)))
        if not count:
            return following, replace(following, cell=fresh), truncated, record
        new = self._begun(fresh[ended], generator)
        return following, replace(following, cell=fresh).with_rows(ended, new), truncated, record

    def _begun(self, cell: CellState, generator: torch.Generator) -> TrafficState:
        sources, arrived = self.arrivals.advance(self.arrivals.reset(cell.batch, generator), generator)
        return TrafficState(cell, arrived_only(arrived, self.traffic.ages), sources, arrived, sources.rate)

    def _energy(self, decision: Decision) -> Tensor:
        precoder, power = decision
        station, user = self.energy
        return station * squared_magnitude(precoder).sum((-2, -1)) + user * power.sum(-1)


def backlog(channels: ChannelState, queues: Tensor, decision: Decision) -> Tensor:
    """What would wait after the service of M decisions for each state, [B, M, K].

    :param channels: that decide the rates      :param queues: [B, K]
    """
    return (queues.unsqueeze(1) - rates_of(channels, *decision)).clamp_min(0)

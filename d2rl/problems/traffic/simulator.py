"""Cells with queues, batched: what waits, what is sent, what arrives, slot after slot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from d2rl.common.tensor_struct import TensorStruct
from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.base import Step
from d2rl.problems.full_duplex.simulator import Cells, CellState, told_alike
from d2rl.problems.traffic.arrivals import Arrivals, Sources
from d2rl.problems.traffic.csi import ChannelPrediction
from d2rl.problems.traffic.objective import Decision, Objective, Waiting, per_link
from d2rl.problems.traffic.queues import DUST, arrived_only, expires, grow_older, head_of_line, serve
from d2rl.problems.traffic.settings import TrafficConfig
from d2rl.problems.traffic.transmission import Transmission
from d2rl.wireless.channel_state import ChannelState


@dataclass(frozen=True)
class TrafficState(TensorStruct):
    """B cells at the moment of a decision. Links are downlink first, bits are in bit/s/Hz-slots.

    :param cell: channels, and the estimate of them that this slot brought
    :param bits: [B, K, A], what waits by age, the oldest first
    :param sources: of the arrivals
    :param arrived: [B, K], what arrived in the slot before
    :param throughput: [B, K], bit/s/Hz, average of what was served, over about ``window`` slots
    :param untold: [B], weighted utility of the cell since the last report      :param unreported: [B], slots since then
    :param predicted: channels to plan with in this slot and the ``csi_delay`` next ones, [B, 1 + delay, ...]; None
        where the base station knows the true ones
    """

    cell: CellState
    bits: Tensor
    sources: Sources
    arrived: Tensor
    throughput: Tensor
    untold: Tensor
    unreported: Tensor
    predicted: ChannelState | None = None

    @property
    def known(self) -> ChannelState:
        """The channels that the base station plans with: the true ones or what it makes of estimates."""
        return self.cell.estimate if self.predicted is None else self.predicted.map(lambda tensor: tensor[:, 0])

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
    """What one slot brought, or the sum of several.

    :param arrived: [B, K], at its end      :param late: [B, K], dropped at a deadline
    :param refused: [B, K], dropped at a full buffer
    :param backlog: [B, K], what waited after service
    :param delays: [B, K, A], what was served by its delay, from A - 1 slots or more down to 0
    :param energy: [B], radiated by base station and users, J
    :param short: [B, K], slots below the minimum rate while something waited
    """

    arrived: Tensor
    late: Tensor
    refused: Tensor
    backlog: Tensor
    delays: Tensor
    energy: Tensor
    short: Tensor

    @property
    def dropped(self) -> Tensor:
        """[B, K], at a deadline or a full buffer."""
        return self.late + self.refused

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
        self.counts = scenario.downlink_users, scenario.uplink_users
        self.cells = Cells(scenario, seed)
        self.objective, self.transmission = Objective(traffic, scenario), Transmission(traffic)
        self.has_deadlines = bool(traffic.downlink_deadline or traffic.uplink_deadline)
        self.has_buffers = bool(traffic.downlink_buffer or traffic.uplink_buffer)
        self.uncertain = traffic.csi_delay > 0 or scenario.csi_error > 0
        self.predict = ChannelPrediction(self.cells, traffic.csi_delay)

    @cached_property
    def arrivals(self) -> Arrivals:
        """Of every link; a list of kinds need not fit cells of other sizes, in which nothing is simulated."""
        return Arrivals(self.traffic, self.scenario)

    def reset(self, batch: int, generator: torch.Generator) -> TrafficState:
        """B new cells, in whose queues is what arrived in one slot."""
        return self._begun(self.cells.reset(batch, generator), generator)

    def waiting(self, state: TrafficState) -> Waiting:
        """What the base station knows of the queues."""
        if not self.has_deadlines:
            return Waiting(state.queues, torch.zeros_like(state.arrived), state.throughput)
        return Waiting(state.queues, (state.bits * self._expires(state.bits)).sum(-1), state.throughput)

    def step(self, state: TrafficState, decision: Decision, generator: torch.Generator) -> Step[TrafficState]:
        """Serve, drop what is late, let arrive, move on; its utility is what the learner is told."""
        can_send = self.transmission.sent(state.cell.channels, state.known, decision, generator)
        utility = self.objective(self.waiting(state), can_send.unsqueeze(1), decision)
        remaining, served = serve(state.bits, can_send)
        late = refused = torch.zeros_like(state.arrived)
        if self.has_deadlines:
            expired = remaining * self._expires(remaining)
            remaining, late = remaining - expired, expired.sum(-1)
        backlog, sent = remaining.sum(-1), served.sum(-1)
        throughput = state.throughput.lerp(sent, 1 / self.traffic.window)
        short = (throughput < self.traffic.minimum_rate) & (backlog > DUST)
        energy = self.objective.energy(decision).sum(-1) * 1e-3

        cell, fresh, truncated = self.cells.advance(state.cell, generator)
        sources, arrived = self.arrivals.advance(state.sources, backlog, generator)
        admitted = arrived
        if self.has_buffers:
            admitted, refused = self._admitted(arrived, backlog)
            utility = utility - self.traffic.drop_price * refused.unsqueeze(1)
        record = Record(arrived, late, refused, backlog, served, energy, short.to(backlog.dtype))
        if self.traffic.feedback == "ack":
            utility = sent.unsqueeze(1)
        told, untold, reported, unreported = self._told(utility, state, cell.slot, truncated)
        predicted = None if state.predicted is None else _pushed(state.predicted, self.predict(cell))
        bits = grow_older(remaining, admitted)
        following = TrafficState(cell, bits, sources, admitted, throughput, untold, unreported, predicted)
        state = self._continued(following, fresh, generator)
        return Step(told, following, state, truncated, torch.zeros_like(truncated), record, reported)

    def _begun(self, cell: CellState, generator: torch.Generator) -> TrafficState:
        sources = self.arrivals.reset(cell.batch, generator)
        sources, arrived = self.arrivals.advance(sources, torch.zeros_like(sources.rate), generator)
        if self.has_buffers:
            arrived, _ = self._admitted(arrived, torch.zeros_like(arrived))
        predicted, slots = None, 1 + self.traffic.csi_delay
        if self.uncertain:  # before the first slot the base station has had time to measure
            now = self.predict(cell)
            predicted = now.map(lambda tensor: tensor.unsqueeze(1).repeat(1, slots, *[1] * (tensor.dim() - 1)))
        bits, untold = arrived_only(arrived, self.traffic.ages), arrived.new_zeros(len(arrived))
        return TrafficState(cell, bits, sources, arrived, sources.rate, untold, untold, predicted)

    def _continued(self, following: TrafficState, fresh: CellState, generator: torch.Generator) -> TrafficState:
        """The states to go on from, with new queues where an episode has ended."""
        length = self.scenario.episode_length
        ended = slice((-fresh.slot) % length, None, length)
        state = replace(following, cell=fresh)
        if not len(range(*ended.indices(fresh.batch))):
            return state
        return state.with_rows(ended, self._begun(fresh[ended], generator))

    def _told(
        self, utility: Tensor, state: TrafficState, slot: int, truncated: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the learner is told of utilities [B, 1, K], and what it is still to be told of; each with its slots.

        Of the cell their weighted sum is told, as if all links had the same. A report also comes when an episode ends.
        """
        feedback = self.traffic.feedback
        unreported = state.unreported + 1
        if feedback in ("dense", "ack"):
            return utility, state.untold, unreported, state.unreported
        untold, due = state.untold + (utility.squeeze(1) * state.weights).sum(-1), truncated
        if feedback == "scalar" or slot % self.traffic.report_slots == 0:
            due = torch.ones_like(truncated)
        told = told_alike(torch.where(due, untold, 0), state.weights)
        rest = torch.where(due, 0, untold), torch.where(due, unreported, 0), torch.where(due, 0, unreported)
        return told.unsqueeze(1), *rest

    def _expires(self, bits: Tensor) -> Tensor:
        t = self.traffic
        return expires(t.ages, per_link(t.downlink_deadline, t.uplink_deadline, self.counts, bits.device))

    def _admitted(self, arrived: Tensor, backlog: Tensor) -> tuple[Tensor, Tensor]:
        """What finds room of what arrived, and what does not."""
        t = self.traffic
        limit = per_link(t.downlink_buffer, t.uplink_buffer, self.counts, arrived.device)
        admitted = torch.minimum(arrived, (limit - backlog).clamp_min(0))
        return admitted, arrived - admitted


def _pushed(predicted: ChannelState, newest: ChannelState) -> ChannelState:
    """The predictions of one slot later, with the newest as the last."""
    tensors = newest.tensors()
    return predicted.with_tensors(
        {name: torch.cat([old[:, 1:], tensors[name].unsqueeze(1)], dim=1) for name, old in predicted.tensors().items()}
    )

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
    :param estimates: those to be used in this slot and in the ``csi_delay`` next ones, [B, 1 + delay, ...]; None where
        the base station knows the true channels
    :param planned: what it makes of the first of them: the channels to plan with
    """

    cell: CellState
    bits: Tensor
    sources: Sources
    arrived: Tensor
    throughput: Tensor
    untold: Tensor
    unreported: Tensor
    estimates: ChannelState | None = None
    planned: ChannelState | None = None

    @property
    def known(self) -> ChannelState:
        """The channels that the base station plans with: the true ones or what it makes of estimates."""
        return self.cell.estimate if self.planned is None else self.planned

    @property
    def estimate(self) -> ChannelState:
        """The estimate that those are made of, as old as the base station gets it."""
        return self.cell.estimate if self.estimates is None else self.estimates.map(lambda tensor: tensor[:, 0])

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

    :param traffic: arrivals and queues      :param scenario: the cell      :param cells: how its channels move on
    """

    def __init__(self, traffic: TrafficConfig, scenario: FullDuplexConfig, cells: Cells):
        self.traffic, self.scenario, self.cells = traffic, scenario, cells
        self.counts = scenario.downlink_users, scenario.uplink_users
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
        return self.begun(self.cells.reset(batch, generator), generator)

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

        cell, fresh, _ = self.cells.advance(state.cell, generator)
        ended = self._ended(fresh)
        truncated = torch.zeros_like(energy, dtype=torch.bool)
        truncated[ended].fill_(True)
        sources, arrived = self.arrivals.advance(state.sources, backlog, generator)
        admitted = arrived
        if self.has_buffers:
            admitted, refused = self._admitted(arrived, backlog)
            utility = utility - self.traffic.drop_price * refused.unsqueeze(1)
        record = Record(arrived, late, refused, backlog, served, energy, short.to(backlog.dtype))
        if self.traffic.feedback == "ack":
            utility = sent.unsqueeze(1)
        told, untold, reported, unreported = self._told(utility, state, cell.slot, truncated)
        following = TrafficState(
            cell, grow_older(remaining, admitted), sources, admitted, throughput, untold, unreported
        )
        if state.estimates is not None:
            following = self._planned(following, _pushed(state.estimates, cell.estimate))
        state = replace(following, cell=fresh)
        if len(range(*ended.indices(fresh.batch))):
            state = state.with_rows(ended, self.begun(fresh[ended], generator))
        return Step(told, following, state, truncated, torch.zeros_like(truncated), record, reported)

    def with_channels(self, state: TrafficState, channels: ChannelState, late: ChannelState) -> TrafficState:
        """``state`` with other true channels in this slot, of which the base station knows an estimate.

        Whatever was estimated for later slots, and the fading that goes on, stays.

        :param late: the estimate that is used now
        """
        assert state.estimates is not None
        newest = late.tensors()
        estimates = state.estimates.with_tensors(
            {
                name: torch.cat([newest[name].unsqueeze(1), old[:, 1:]], dim=1)
                for name, old in state.estimates.tensors().items()
            }
        )
        return self._planned(replace(state, cell=replace(state.cell, channels=channels)), estimates)

    def _planned(self, state: TrafficState, estimates: ChannelState) -> TrafficState:
        """The state with these estimates, and what the base station makes of the first of them."""
        first = estimates.map(lambda tensor: tensor[:, 0])
        return replace(state, estimates=estimates, planned=self.predict(replace(state.cell, estimate=first)))

    def begun(self, cell: CellState, generator: torch.Generator) -> TrafficState:
        """Cells with new queues, in which is what arrived in one slot."""
        sources = self.arrivals.reset(cell.batch, generator)
        sources, arrived = self.arrivals.advance(sources, torch.zeros_like(sources.rate), generator)
        if self.has_buffers:
            arrived, _ = self._admitted(arrived, torch.zeros_like(arrived))
        bits, untold = arrived_only(arrived, self.traffic.ages), arrived.new_zeros(len(arrived))
        state = TrafficState(cell, bits, sources, arrived, sources.rate, untold, untold)
        if not self.uncertain:
            return state
        slots = 1 + self.traffic.csi_delay  # before the first slot the base station has had time to measure
        return self._planned(
            state, cell.estimate.map(lambda tensor: tensor.unsqueeze(1).repeat(1, slots, *[1] * (tensor.dim() - 1)))
        )

    def _ended(self, cell: CellState) -> slice:
        """Which cells end an episode with this slot, and get new queues; they are staggered."""
        length = self.scenario.episode_length
        return slice((-cell.slot) % length, None, length)

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


def _pushed(estimates: ChannelState, newest: ChannelState) -> ChannelState:
    """The estimates of one slot later, with the newest as the last."""
    tensors = newest.tensors()
    return estimates.with_tensors(
        {name: torch.cat([old[:, 1:], tensors[name].unsqueeze(1)], dim=1) for name, old in estimates.tensors().items()}
    )

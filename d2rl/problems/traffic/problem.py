"""A cell with queues as a problem: beams and powers in every slot, so that what arrives need not wait."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from d2rl.config.defaults import Config, FullDuplexConfig
from d2rl.problems.base import Drawing, Layout, Observation, Rows, Simulation, Sizes, Step, stream
from d2rl.problems.full_duplex.cell_sizes import cells_of
from d2rl.problems.full_duplex.checks import check_cell
from d2rl.problems.full_duplex.observation import EDGE_FEATURES
from d2rl.problems.full_duplex.problem import FullDuplexProblem
from d2rl.problems.full_duplex.scenario_bank import scenario_bank
from d2rl.problems.traffic.arrivals import recorded
from d2rl.problems.traffic.bound import least_delay
from d2rl.problems.traffic.checks import check_traffic
from d2rl.problems.traffic.descent import descend
from d2rl.problems.traffic.metrics import UNITS, summary
from d2rl.problems.traffic.objective import Decision, Waiting, per_link
from d2rl.problems.traffic.observation import NODE_FEATURES, QUEUE_FEATURES, KnownTraffic, measured, queue_features
from d2rl.problems.traffic.queues import DUST
from d2rl.problems.traffic.references import Policy, reference_policies
from d2rl.problems.traffic.settings import TrafficConfig
from d2rl.problems.traffic.simulator import Record, TrafficCells, TrafficState
from d2rl.problems.traffic.state_rows import LateRows
from d2rl.problems.traffic.transmission import mcs_table

WAITED = 3  # slots without service in the states that an exported file is compared on
ENDLESS = 10**9  # slots of an episode that is never cut


class TrafficProblem:
    """The links of the full-duplex cell, each with a queue.

    Entities are links, downlink first; the utility of a link is minus what waits for it after service, in
    bit/s/Hz-slots, and what else has a price (:class:`Objective`). So the return of an episode is minus the bits that
    waited, summed over slots: minus the mean delay times what arrived (Little).

    :param traffic: arrivals and queues      :param scenario: the cell      :param seed: of a fixed set of states
    :param kept: whether of a channel bank the states are shown that are kept for evaluation
    """

    name = "traffic"
    section = "traffic"
    settings = TrafficConfig
    beside: ClassVar = {"scenario": FullDuplexConfig}
    exogenous = False
    exogenous_rows = True  # channels
    units: ClassVar = UNITS

    def __init__(self, traffic: TrafficConfig, scenario: FullDuplexConfig, seed: int = 0, kept: bool = False):
        self.config, self.scenario, self.seed = traffic, scenario, seed
        self.links = FullDuplexProblem(scenario, seed, kept)
        self.cells = TrafficCells(traffic, scenario, self.links.cells)
        self.late = LateRows(self.links, self.cells.predict.correlations) if self.cells.uncertain else None
        self.worth = self.cells.objective
        both = self.cells.has_deadlines and self.cells.has_buffers
        drops = ("dropped", "dropped_late", "dropped_full") if both else ("dropped",)
        self.shown = ("mean_delay", "delay_p95", *drops, "throughput", "jain")
        self.layout: Layout = self.links.layout
        flat = self.links.sizes.flat + QUEUE_FEATURES * self.layout.entities
        self.sizes = Sizes(NODE_FEATURES, EDGE_FEATURES, view=2, flat=flat)

    @classmethod
    def check(cls, config: Any) -> None:
        """Refuse values that do not fit together. :raises ConfigError: names the keys"""
        for cell in cells_of(config.scenario):
            check_traffic(config.traffic, cell)
        check_cell(Config(scenario=config.scenario, network=config.network, stages=config.stages))

    @classmethod
    def check_files(cls, config: Any) -> None:
        """Read the trace and the table of schemes; an evaluation asks for its own cell by this alone.

        :raises ConfigError: one cannot be used, or the cell's keys do not fit together
        """
        t: TrafficConfig = config.traffic
        check_traffic(t, config.scenario)
        mcs_table(t.mcs_table)
        if config.scenario.channel_bank:
            scenario_bank(config.scenario)
        if t.trace is not None:
            recorded(t.trace, config.scenario, config.scenario.episode_length)

    @classmethod
    def variants(cls, traffic: TrafficConfig, scenario: FullDuplexConfig, seed: int) -> list[TrafficProblem]:
        """The scenario's own cell, then those of ``scenario.loads``; a channel bank is of one cell alone."""
        return [cls(traffic, links.config, seed) for links in FullDuplexProblem.variants(scenario, seed)]

    def __str__(self) -> str:
        return f"{self.links} and queues"

    def reset(self, batch: int, generator: torch.Generator) -> TrafficState:
        """B new cells."""
        return self.cells.reset(batch, generator)

    def step(self, state: TrafficState, decision: Decision, generator: torch.Generator) -> Step[TrafficState]:
        """Service, arrivals, the next slot."""
        return self.cells.step(state, decision, generator)

    def observe(self, state: TrafficState) -> Observation:
        """Features of the known channels and of the queues; as baseline the backlog of RZF at full power.

        With gamma above 0 reward.case=each is the right one of those of links: a baseline would reward decisions for
        leading to states with a low one.
        """
        return self.observe_known(self.known(state))

    def decode(self, observation: Observation, action: Tensor) -> Decision:
        """Precoder and uplink power of M actions [B, M, size] of each state; links with nothing to send stay silent."""
        waits = (observation.known.waiting.queues > DUST).to(action.dtype)
        return self.links.decode(replace(observation, weights=waits), action)

    def feasible(self, decision: Decision) -> Tensor:
        """[B M] bool: total precoder power at most 1, uplink powers in [0, 1]."""
        return self.links.feasible(decision)

    def permuted(self, state: TrafficState, orders: list[Tensor]) -> TrafficState:
        """The same cells with their users in another order, downlink and uplink."""
        links = torch.cat([orders[0], len(orders[0]) + orders[1]])
        queues = {name: getattr(state, name)[:, links] for name in ("bits", "arrived", "throughput")}
        sources = state.sources.map(lambda tensor: tensor[:, links])
        estimates, planned, users = state.estimates, state.planned, [order.tolist() for order in orders]
        if estimates is not None and planned is not None:
            flat = estimates.map(lambda tensor: tensor.flatten(0, 1)).permute_users(*users)
            estimates = flat.map(lambda tensor: tensor.unflatten(0, (state.batch, -1)))
            planned = planned.permute_users(*users)
        cell = self.links.permuted(state.cell, orders)
        return replace(state, cell=cell, sources=sources, estimates=estimates, planned=planned, **queues)

    def view(self, observation: Observation, action: Tensor, decision: Decision | None = None) -> Tensor:
        """Log signal, and log interference plus noise, of each link on the known channels: [B, M, K, 2]."""
        decision = self.decode(observation, action) if decision is None else decision
        return self.links.view(observation, action, decision)

    def flat(self, observation: Observation) -> Tensor:
        """Raw CSI, priorities, and the features of the queues."""
        return torch.cat([self.links.flat(observation), observation.nodes[..., -QUEUE_FEATURES:].flatten(1)], dim=-1)

    @property
    def report_slots(self) -> int:
        """Slots between two reports."""
        return self.config.report_slots if self.config.feedback == "report" else 1

    @property
    def tells_sums(self) -> bool:
        """Whether the learner is told of the cell alone, and not of its links."""
        return self.config.feedback in ("scalar", "report")

    def telling_all(self) -> TrafficProblem:
        """The same cell, which tells of every link in every slot."""
        return TrafficProblem(replace(self.config, feedback="dense"), self.scenario, self.seed)

    # ------------------------------------------------------------------ Episodic

    @property
    def slots(self) -> int:
        """Length of an episode."""
        return self.scenario.episode_length

    def endless(self) -> TrafficProblem:
        """The same cell at the load of evaluations, whose users stay, on channels without end; it tells all.

        Of a channel bank on the states that are kept for evaluation.
        """
        traffic = replace(self.config, load_low=None, load_high=None, feedback="dense")
        scenario = replace(self.scenario, episode_length=ENDLESS, stored_states=0)
        return TrafficProblem(traffic, scenario, self.seed, kept=True)

    def summary(self, total: Record) -> dict[str, float]:
        """Metrics of episodes; see :func:`summary`."""
        return summary(total, self.slots, self.scenario.bandwidth * self.scenario.slot * 1e3, self.waiting)

    @property
    def waiting(self) -> list[int]:
        """Links whose delays count: those without a full buffer, all where there are no others."""
        links = [link for link, kind in enumerate(self.cells.arrivals.kinds) if kind != "full_buffer"]
        return links or list(range(self.layout.entities))

    def least_delay(self, episodes: int, seed: int, device: str | torch.device) -> float | None:
        """Mean delay that no policy can pass; None where bits are dropped, or full buffers never wait for less."""
        if self.cells.has_deadlines or self.cells.has_buffers or "full_buffer" in self.cells.arrivals.kinds:
            return None
        return least_delay(self, episodes, seed, device)

    def course(self, record: Record) -> Tensor:
        """Mean backlog of a cell after a slot."""
        return record.backlog.sum(-1).mean()

    def pictures(self, outcomes: Mapping[str, Any]) -> list[Drawing]:
        """What report.html shows of episodes: queues over time, and how long bits of the links ``waiting`` did."""
        from d2rl.problems.traffic.figures import drawings  # needs matplotlib, which a decision does not

        return drawings({name: (one.course, one.total.delays[:, self.waiting]) for name, one in outcomes.items()})

    def references(self) -> dict[str, Policy]:
        """Schedulers without learning, by name."""
        c = self.config
        limits = per_link(c.downlink_deadline, c.uplink_deadline, self.cells.counts, torch.device("cpu"))
        return reference_policies(c, limits if self.cells.has_deadlines else None, self.cells.transmission.promised)

    # ------------------------------------------------------------------ Exportable

    outputs = FullDuplexProblem.outputs

    def known(self, state: TrafficState) -> dict[str, Tensor]:
        """The known channels, priorities, and of every link the :data:`MEASUREMENTS` [B, K, 6]."""
        cell = self.links.known(replace(state.cell, estimate=state.known))
        return {**cell, "traffic": measured(state, self.cells.waiting(state))}

    def observe_known(self, known: Mapping[str, Any]) -> Observation:
        """Features of the known channels and of the queues."""
        *own, measurements = known.values()
        cell = self.links.observe_known(dict(zip(known, own, strict=False)))
        waiting = Waiting(*measurements.unbind(-1)[:3])
        nodes = torch.cat([cell.nodes, queue_features(measurements, cell.baseline)], dim=-1)
        seen = KnownTraffic(cell.known.channels, cell.known.basis, waiting)
        served = torch.minimum(waiting.queues, cell.baseline)
        baseline = served if self.config.feedback == "ack" else served - waiting.queues
        return Observation(nodes, cell.edges, cell.weights, baseline, seen, cell.layout)

    def examples(self, count: int, seed: int) -> TrafficState:
        """Cells in which something waits: nothing was served for some slots."""
        return self._unserved(WAITED, count, seed)

    def _unserved(self, slots: int, *simulation: Any) -> TrafficState:
        """Cells in which nothing was served for some slots; the other arguments are those of :class:`Simulation`."""
        world = Simulation(self.endless(), *simulation)
        middle = torch.zeros(world.batch, 1, self.layout.size, device=world.device)
        precoder, power = self.decode(self.observe(world.state), middle)
        for _ in range(slots):
            world.step((0 * precoder, 0 * power))
        return world.state

    # ------------------------------------------------------------------ Generative

    def row_sizes(self) -> dict[str, int]:
        """Real numbers of each channel, and where estimates are late or noisy of what is known of it."""
        return self.links.row_sizes() if self.late is None else self.late.sizes

    def place_sizes(self) -> dict[str, int]:
        """Of users."""
        return self.links.place_sizes()

    def notice_placeless(self) -> None:
        """Say, once, that SENPNN could go by places, had the states any."""
        self.links.notice_placeless()

    def rows(self, state: TrafficState) -> dict[str, Rows]:
        """Whitened small-scale coefficients of this slot: no decision moves them."""
        return self.links.rows(state.cell) if self.late is None else self.late.rows(state.cell, state.estimate)

    def with_rows(self, state: TrafficState, numbers: Mapping[str, Tensor], generator: torch.Generator) -> TrafficState:
        """The same queues over other channels in this slot, known as well as real ones; real fading goes on."""
        if self.late is None:
            return replace(state, cell=self.links.with_rows(state.cell, numbers, generator))
        return self.cells.with_channels(state, *self.late.channels(state.cell, numbers))

    def held_out(self, count: int, device: torch.device) -> tuple[TrafficState, TrafficState | None]:
        """The last fifth of a fixed set, else new cells, whose estimates are as late as later ones."""
        kept, stored = self.links.held_out(count, device)
        if stored is None:
            return self._unserved(self.config.csi_delay, count, 0, device, "held out"), None
        generator = torch.Generator(device).manual_seed(stream("held out"))
        return self.cells.begun(kept, generator), self.cells.begun(stored, generator)

    def plausibility(
        self, real: TrafficState, made: TrafficState, generator: torch.Generator
    ) -> dict[str, dict[str, Any]]:
        """Distances between real and made channels, beside those between real and real ones."""
        return self.links.plausibility(real.cell, made.cell, generator)

    # ------------------------------------------------------------------ Remembering

    def state_dict(self) -> dict[str, Any]:
        """The fixed set of channels, where there is one."""
        return self.links.state_dict()

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue with it."""
        self.links.load_state_dict(saved)

    # ------------------------------------------------------------------ Measurable

    def measure(self, state: TrafficState, decision: Decision) -> Tensor:
        """Utility [B, M, K] of what is sent on average on the true channels; without what finds no room afterwards."""
        sent = self.cells.transmission.mean(state.cell.channels, state.known, decision)
        return self.worth(self.cells.waiting(state), sent, decision)

    def utility(self, observation: Observation, decision: Decision) -> Tensor:
        """Utility [B, M, K] on the known channels."""
        known = observation.known
        return self.worth(known.waiting, self.cells.transmission.promised(known.channels, decision), decision)

    def refine(self, observation: Observation, decision: Decision, iterations: int) -> Decision:
        """The decision after steps of Adam from it, which can only raise the utility on what is known."""
        with torch.inference_mode(False), torch.enable_grad():
            known = observation.known.map(torch.clone)  # tensors of inference mode have no gradient
            start = decision[0].clone(), decision[1].clone()

            def loss(decided: Decision) -> Tensor:
                sent = self.cells.transmission.promised(known.channels, decided)
                return -self.worth(known.waiting, sent, decided).sum((-2, -1))

            return descend(loss, start, iterations)

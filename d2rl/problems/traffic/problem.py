"""A cell with queues as a problem: beams and powers in every slot, so that what arrives need not wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from d2rl.common.errors import ConfigError
from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.base import Layout, Observation, Sizes, Step
from d2rl.problems.full_duplex.problem import FullDuplexProblem
from d2rl.problems.traffic.metrics import summary
from d2rl.problems.traffic.observation import EDGE_FEATURES, NODE_FEATURES, QUEUE_FEATURES, with_queues
from d2rl.problems.traffic.settings import TrafficConfig
from d2rl.problems.traffic.simulator import Decision, Record, TrafficCells, TrafficState, backlog

ENDLESS = 10**9  # slots of an episode that is never cut


class TrafficProblem:
    """The links of the full-duplex cell, each with a queue.

    Entities are links, downlink first; the utility of a link is minus what waits for it after service, in
    bit/s/Hz-slots. So the return of an episode is minus the bits that waited, summed over slots: minus the mean delay
    times what arrived (Little).

    :param traffic: arrivals and queues      :param scenario: the cell      :param seed: of a fixed set of states
    """

    name = "traffic"
    section = "traffic"
    settings = TrafficConfig
    beside: ClassVar = {"scenario": FullDuplexConfig}
    exogenous = False
    shown = ("mean_delay", "delay_p95", "throughput", "jain")

    def __init__(self, traffic: TrafficConfig, scenario: FullDuplexConfig, seed: int = 0):
        self.config, self.scenario = traffic, scenario
        self.links = FullDuplexProblem(scenario, seed)
        self.cells = TrafficCells(traffic, scenario, seed)
        self.layout: Layout = self.links.layout
        flat = self.links.sizes.flat + QUEUE_FEATURES * self.layout.entities
        self.sizes = Sizes(NODE_FEATURES, EDGE_FEATURES, view=2, flat=flat)

    @classmethod
    def check(cls, config: Any) -> None:
        """Refuse values that do not fit together. :raises ConfigError: names the keys"""
        t: TrafficConfig = config.traffic
        low, high = t.load_low or t.load, t.load_high or t.load
        if low > high:
            raise ConfigError(f"traffic.load_low ({low:g}) must be at most traffic.load_high ({high:g}).")

    @classmethod
    def variants(cls, traffic: TrafficConfig, scenario: FullDuplexConfig, seed: int) -> list[TrafficProblem]:
        """One cell."""
        return [cls(traffic, scenario, seed)]

    def __str__(self) -> str:
        return f"{self.links} and queues"

    def reset(self, batch: int, generator: torch.Generator) -> TrafficState:
        """B new cells."""
        return self.cells.reset(batch, generator)

    def step(self, state: TrafficState, decision: Decision, generator: torch.Generator) -> Step[TrafficState]:
        """Service, arrivals, the next slot."""
        following, fresh, truncated, record = self.cells.step(state, decision, generator)
        utility = -record.backlog.unsqueeze(1)
        return Step(utility, following, fresh, truncated, torch.zeros_like(truncated), record)

    def observe(self, state: TrafficState) -> Observation:
        """Features of the estimated channels and of the queues."""
        return with_queues(self.links.observe(state.cell), state)

    def decode(self, observation: Observation, action: Tensor) -> Decision:
        """Precoder and uplink power of M actions [B, M, size] of each state; empty links stay silent."""
        waiting = (observation.known.queues > 0).to(action.dtype)
        return self.links.decode(replace(observation, weights=waiting), action)

    def feasible(self, decision: Decision) -> Tensor:
        """[B M] bool: total precoder power at most 1, uplink powers in [0, 1]."""
        return self.links.feasible(decision)

    def permuted(self, state: TrafficState, orders: list[Tensor]) -> TrafficState:
        """The same cells with their users in another order, downlink and uplink."""
        links = torch.cat([orders[0], len(orders[0]) + orders[1]])
        cell = self.links.permuted(state.cell, orders)
        tensors = replace(state, cell=cell).tensors()
        queues = {name: tensor[:, links] for name, tensor in tensors.items() if not name.startswith("cell.")}
        return state.with_tensors(tensors | queues)

    def view(self, observation: Observation, action: Tensor, decision: Decision | None = None) -> Tensor:
        """Log signal, and log interference plus noise, of each link on the known channels: [B, M, K, 2]."""
        decision = self.decode(observation, action) if decision is None else decision
        return self.links.view(observation, action, decision)

    def flat(self, observation: Observation) -> Tensor:
        """Raw CSI, priorities, and the features of the queues."""
        return torch.cat([self.links.flat(observation), observation.nodes[..., -QUEUE_FEATURES:].flatten(1)], dim=-1)

    # ------------------------------------------------------------------ Episodic

    @property
    def slots(self) -> int:
        """Length of an episode."""
        return self.scenario.episode_length

    def endless(self) -> TrafficProblem:
        """The same cell at the load of evaluations, whose users stay."""
        traffic = replace(self.config, load_low=None, load_high=None)
        return TrafficProblem(traffic, replace(self.scenario, episode_length=ENDLESS))

    def summary(self, total: Record) -> dict[str, float]:
        """Metrics of episodes; see :func:`summary`."""
        return summary(total, self.slots, self.scenario.bandwidth * self.scenario.slot * 1e3)

    # ------------------------------------------------------------------ Measurable

    def measure(self, state: TrafficState, decision: Decision) -> Tensor:
        """Utility [B, M, K] on the true channels."""
        return -backlog(state.cell.channels, state.queues, decision)

    def utility(self, observation: Observation, decision: Decision) -> Tensor:
        """Utility [B, M, K] on the known channels."""
        return -backlog(observation.known.channels, observation.known.queues, decision)

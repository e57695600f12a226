"""A downlink aided by a reconfigurable intelligent surface, as a problem."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from d2rl.common.errors import ConfigError
from d2rl.problems.base import Layout, Observation, Sizes, Step, stream
from d2rl.problems.ris.channels import Decision, SurfaceChannels, user_rates
from d2rl.problems.ris.head import SurfaceHead
from d2rl.problems.ris.observation import (
    EDGE_FEATURES,
    NODE_FEATURES,
    flat_channels,
    log_gain,
    log_priority,
    observe,
)
from d2rl.problems.ris.references import Policy, alternate, gradient, rate_bound, reference_policies
from d2rl.problems.ris.settings import RisConfig
from d2rl.problems.ris.simulator import SurfaceState, drop
from d2rl.wireless.link_rates import downlink_powers, squared_magnitude
from d2rl.wireless.precoders import full_uplink_power


class RisProblem:
    """4 users and the 32 elements of a surface by default: beams for the users and a phase for each element.

    Users come first, then elements. A user's utility is its rate in bit/s/Hz. An element's is 0 and so is its weight:
    a phase is worth nothing but what users make of it, and any share of their rates given to elements would count those
    twice. So the weighted sum over entities is the sum rate, and what a critic says of elements moves nothing. Every
    slot shows new drops, whatever was decided.

    :param config: the hotspot
    """

    name = "ris"
    section = "ris"
    settings = RisConfig
    exogenous = True
    metric = "weighted_sum_rate"
    unit = "bit/s/Hz"
    shown = ("outage_sum_rate", "rate_p5", "jain")
    anchors = ("random", "alternating")

    def __init__(self, config: RisConfig):
        self.config, self.head = config, SurfaceHead()
        self.layout = Layout((config.users, config.elements), self.head.numbers)
        n_t, n, k = config.antennas, config.elements, config.users
        self.sizes = Sizes(NODE_FEATURES, EDGE_FEATURES, view=2, flat=2 * (k * n_t + n * n_t + k * n) + k)

    @classmethod
    def check(cls, config: Any) -> None:
        """Refuse values that do not fit together. :raises ConfigError: names the keys"""
        c: RisConfig = config.ris
        for small, large in (("minimum_distance", "user_radius"), ("user_radius", "surface_distance")):
            if getattr(c, small) >= getattr(c, large):
                raise ConfigError(
                    f"ris.{small} ({getattr(c, small):g}) must be below ris.{large} ({getattr(c, large):g}), both in m."
                )

    @classmethod
    def variants(cls, config: RisConfig, seed: int) -> list[RisProblem]:
        """One hotspot."""
        return [cls(config)]

    def __str__(self) -> str:
        c = self.config
        return f"{c.users} users, {c.elements} elements and {c.antennas} antennas"

    def reset(self, batch: int, generator: torch.Generator) -> SurfaceState:
        """B new drops."""
        return drop(self.config, batch, generator)

    def step(self, state: SurfaceState, decision: Decision, generator: torch.Generator) -> Step[SurfaceState]:
        """The rates, then new drops."""
        utility = self.measure(state, decision)
        following = self.reset(state.batch, generator)
        ended = torch.ones(state.batch, dtype=torch.bool, device=utility.device)
        return Step(utility, following, following, ended, ~ended)

    def observe(self, state: SurfaceState) -> Observation:
        """Features at a simple decision."""
        return observe(state, gradient(state.channels, self.config.gradient_steps), self.layout)

    def decode(self, observation: Observation, action: Tensor) -> Decision:
        """Reflection and precoder of M actions [B, M, size] of each state."""
        known = observation.known.repeat(action.shape[1])
        numbers = self.layout.split(action.float().flatten(0, 1))
        return self.head.decode(known.channels, known.reflection, *numbers)

    def feasible(self, decision: Decision) -> Tensor:
        """[B M] bool: every element of modulus 1, total precoder power at most 1."""
        reflection, precoder = decision
        passive = ((squared_magnitude(reflection) - 1).abs() <= 1e-4).all(-1)
        return passive & (squared_magnitude(precoder).sum((-2, -1)) <= 1 + 1e-4)

    def permuted(self, state: SurfaceState, orders: list[Tensor]) -> SurfaceState:
        """The same drops with users and elements in another order.

        :param orders: of the users [K] and of the elements [N], int64
        """
        users, elements = orders
        c, entities = state.channels, torch.cat([users, len(users) + elements])
        channels = SurfaceChannels(c.direct[:, users], c.feed[:, elements], c.reflected[:, users][:, :, elements])
        return SurfaceState(channels, state.weights[:, entities])

    def view(self, observation: Observation, action: Tensor, decision: Decision | None = None) -> Tensor:
        """Log signal, and log interference, that an action gives each user; 0 for elements: [B, M, K + N, 2]."""
        with torch.autocast(action.device.type, enabled=False):
            reflection, precoder = self.decode(observation, action) if decision is None else decision
            cell = observation.known.channels.repeat(action.shape[1]).effective(reflection)
            signal, disturbance = downlink_powers(cell, precoder, full_uplink_power(cell))
            view = torch.stack([log_gain(signal), log_gain(disturbance - 1)], dim=-1)
        return F.pad(view, (0, 0, 0, self.layout.counts[1])).unflatten(0, (-1, action.shape[1]))

    def flat(self, observation: Observation) -> Tensor:
        """Raw channels and priorities.

        :raises ValueError: a hotspot of another size; one of as many coefficients would be misread
        """
        if observation.layout != self.layout:
            raise ValueError(f"this network was built for {self}, not for {observation.layout.counts} entities")
        return flat_channels(observation)

    # ------------------------------------------------------------------ Measurable, Benchmarked

    def measure(self, state: SurfaceState, decision: Decision) -> Tensor:
        """Rates of users, 0 for elements: [B, M, K + N]."""
        return self._utility(state.channels, decision)

    def utility(self, observation: Observation, decision: Decision) -> Tensor:
        """The same; the channels are known."""
        return self._utility(observation.known.channels, decision)

    def frozen(self, drops: int, seed: int, device: str | torch.device) -> SurfaceState:
        """Evaluation drops in which all users have priority 1."""
        generator = torch.Generator(device).manual_seed(stream(f"evaluation/{seed}"))
        return drop(replace(self.config, priority_user=0.0), drops, generator)

    def references(self) -> dict[str, Policy]:
        """Decisions without learning, by name."""
        return reference_policies(self.config.gradient_steps)

    def bound(self, state: SurfaceState) -> Tensor:
        """Weighted sum rate [B] without interference and with a surface for each user, which nothing can pass."""
        return rate_bound(state)

    def metrics(self, utility: Tensor, weights: Tensor, decision: Decision) -> dict[str, float]:
        """Summary of the users' rates.

        :param utility: [B, K + N], bit/s/Hz; 0 of elements
        :param weights: [B, K + N]
        :param decision: of which the summary tells nothing
        """
        from d2rl.wireless.rate_summary import (
            rate_summary,
        )  # torchmetrics takes seconds to import, which no decision waits for

        users = self.layout.counts[0]
        return rate_summary(utility[:, :users], weights[:, :users])

    def refine(self, observation: Observation, decision: Decision, iterations: int) -> Decision:
        """The decision after rounds of alternating optimisation from it, which can only raise the weighted rate."""
        weights = observation.weights[:, : self.layout.counts[0]]
        return alternate(observation.known.channels, decision, weights, iterations)

    def _utility(self, channels: SurfaceChannels, decision: Decision) -> Tensor:
        copies = decision[0].shape[0] // channels.batch
        rates = user_rates(channels.repeat(copies), decision).unflatten(0, (-1, copies))
        return F.pad(rates, (0, self.layout.counts[1]))

    # ------------------------------------------------------------------ Prioritised

    def with_priorities(self, observation: Observation, weights: Tensor) -> Observation:
        """The same states under several versions of their priorities; those of elements change nothing."""
        return observation.reweighted(weights, lambda one: log_priority(one, self.layout))

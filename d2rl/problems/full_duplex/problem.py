"""The full-duplex cell as a problem: what is decided in a slot, and what it is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from d2rl.common.notices import notice_once
from d2rl.common.tensor_struct import repeated
from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.base import Layout, Observation, Rows, Sizes, Step, stream
from d2rl.problems.full_duplex.cell_sizes import cells_of
from d2rl.problems.full_duplex.checks import check_cell, read_files
from d2rl.problems.full_duplex.given_state import given_state
from d2rl.problems.full_duplex.observation import (
    EDGE_FEATURES,
    NODE_FEATURES,
    flat_cell,
    log_weight,
    notice_priorities,
    observe,
)
from d2rl.problems.full_duplex.references import Policy, reference_policies
from d2rl.problems.full_duplex.scenario_bank import CELL, cell_of, described, scenario_bank
from d2rl.problems.full_duplex.simulator import Cells, CellState, evaluation_states, rates_of, told_alike
from d2rl.problems.full_duplex.state_rows import PLACE_SIZE, row_sizes, rows_of, with_numbers
from d2rl.wireless.antenna_power import within_antenna_power
from d2rl.wireless.bounds import interference_free_rates
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.convergence import refined
from d2rl.wireless.energy import Consumption, efficiency_bound
from d2rl.wireless.fairness import common_rate, improve_by, max_min
from d2rl.wireless.heads import BeamformingHead, make_head
from d2rl.wireless.link_powers import link_powers
from d2rl.wireless.link_rates import Decision, squared_magnitude
from d2rl.wireless.objectives import ENERGY, MAX_MIN, Objective
from d2rl.wireless.propagation import DECADES
from d2rl.wireless.wmmse import check_weights


class FullDuplexProblem:
    """4 + 6 users of one full-duplex base station by default: a beam and a power for each, in every slot.

    Entities are links, downlink first; the utility of a link is its rate in bit/s/Hz.

    :param config: the scenario
    :param seed: of the fixed set of states, where the scenario has one
    :param kept: whether of a channel bank the states are shown that are kept for evaluation
    """

    name = "full_duplex"
    section = "scenario"
    settings = FullDuplexConfig
    exogenous = True
    exogenous_rows = True
    tied = (*CELL, "loads", "stored_states", "channel_bank", "fixed_drop")
    metric = "weighted_sum_rate"
    unit = "bit/s/Hz"
    anchors = ("random", "wmmse")
    check = staticmethod(check_cell)
    check_files = staticmethod(read_files)
    state_of = staticmethod(given_state)

    def __init__(self, config: FullDuplexConfig, seed: int = 0, kept: bool = False):
        self.config, self.seed = config, seed
        self.cells = Cells(config, seed, kept)
        self.head = make_head(config.head, config.transmit_antennas, config.passes)
        k_d, k_u = config.downlink_users, config.uplink_users
        self.layout = Layout((k_d, k_u), (self.head.layout.down, self.head.layout.up))
        both = k_d > 0 and k_u > 0
        self.objective = Objective(config.objective, config.minimum_rate, consumption=consumption(config))
        self.shown: tuple[str, ...] = ("downlink_rate", "uplink_rate") if both else ("rate_p5", "jain")
        if self.objective.kind == ENERGY:
            self.metric, self.unit, self.shown = "energy_efficiency", "Mbit/J", ("sum_rate", "total_power")
            self.units = {"sum_rate": "bit/s/Hz", "total_power": "W"}
        elif self.objective.kind == MAX_MIN:
            self.metric, self.shown = "min_rate", ("sum_rate", "jain")
        elif not self.objective.plain:
            self.shown = ("min_rate", "satisfied")
        n_t, n_r = config.transmit_antennas, config.receive_antennas
        coefficients = k_d * n_t + k_u * n_r + both * (k_u * k_d + n_r * n_t)
        self.sizes = Sizes(NODE_FEATURES, EDGE_FEATURES, view=2, flat=2 * coefficients + k_d + k_u)

    @classmethod
    def variants(cls, config: FullDuplexConfig, seed: int) -> list[FullDuplexProblem]:
        """The scenario's own cell, then those of ``scenario.loads``; a channel bank is of one cell alone."""
        cells = cells_of(config)
        return [cls(cell, seed) for cell in (cells[:1] if config.channel_bank is not None else cells)]

    def __str__(self) -> str:
        return f"{described(cell_of(self.config))} with the {self.config.head} head"

    def reset(self, batch: int, generator: torch.Generator) -> CellState:
        """B cells in their first slot."""
        return self.cells.reset(batch, generator)

    def step(self, state: CellState, decision: Decision, generator: torch.Generator) -> Step[CellState]:
        """Rates on the true channels, then the next slot. Where the sum alone is told, every link has the mean."""
        rates = self.measure(state, decision)
        if self.tells_sums:
            weights = state.weights.unsqueeze(1)
            rates = told_alike((rates * weights).sum(-1), weights)
        following, fresh, truncated = self.cells.advance(state, generator)
        return Step(rates, following, fresh, truncated, torch.zeros_like(truncated))

    @property
    def tells_sums(self) -> bool:
        """Whether the learner is told of the cell alone, and not of its links."""
        return self.config.feedback == "scalar"

    def telling_all(self) -> FullDuplexProblem:
        """The same cell, which tells of every link."""
        return FullDuplexProblem(replace(self.config, feedback="dense"), self.seed)

    def observe(self, state: CellState) -> Observation:
        """Features of the estimated channels."""
        return self.observe_known(self.known(state))

    def decode(self, observation: Observation, action: Tensor) -> Decision:
        """Precoder and uplink power of M actions [B, M, size] of each state.

        A link of weight 0 stays silent, whatever the action says: it could only disturb the others.
        """
        return self._decode(observation, action, observation.known.channels.repeat(action.shape[1]))

    def _decode(self, observation: Observation, action: Tensor, channels: ChannelState) -> Decision:
        """The same, with the channels of every action at hand."""
        count, basis = action.shape[1], observation.known.basis
        weights = repeated(observation.weights, count)
        precoder, power = self.head.decode(channels, action.float().flatten(0, 1), repeated(basis, count), weights)
        precoder = within_antenna_power(precoder, self.config.antenna_power)
        wanted = (weights > 0).to(power.dtype)
        down, up = wanted.tensor_split([channels.downlink_users], dim=-1)
        return precoder * down.unsqueeze(-2), power * up

    def notice_change(self, before: Any) -> None:
        """Say, once, that weights were made where users stay in other places."""
        was, now = getattr(before.config, "fixed_drop", None), self.config.fixed_drop
        if was is not None and was != now:
            there = "are dropped anew" if now is None else f"stay in those of {now}"
            notice_once(
                f"the weights were made with scenario.fixed_drop={was}, and here users {there}: the place has changed, "
                "and a plain network decides badly in another place until it is trained again."
            )

    def executed(self, action: Tensor) -> Tensor:
        """The numbers of what is carried out of an action of the beamforming head, [..., size]."""
        assert isinstance(self.head, BeamformingHead)  # others are refused
        return self.head.executed(action, self.config.downlink_users)

    def feasible(self, decision: Decision) -> Tensor:
        """[B M] bool: total precoder power at most 1, no antenna above its limit, uplink powers in [0, 1]."""
        precoder, power = decision
        spent = squared_magnitude(precoder).sum(-1)
        limit = self.config.antenna_power or math.inf
        within = (spent.sum(-1) <= 1 + 1e-4) & (spent * spent.shape[-1] <= limit * (1 + 1e-4)).all(-1)
        return within & ((power >= 0) & (power <= 1)).all(-1)

    def permuted(self, state: CellState, orders: list[Tensor]) -> CellState:
        """The same cells with their users in another order.

        :param orders: of the downlink users [K_D] and of the uplink users [K_U], int64
        """
        down, up = (order.tolist() for order in orders)
        channels, estimate = (one.permute_users(down, up) for one in (state.channels, state.estimate))
        links = torch.cat([orders[0], len(down) + orders[1]])
        return replace(state, channels=channels, estimate=estimate, weights=state.weights[:, links])

    def view(self, observation: Observation, action: Tensor, decision: Decision | None = None) -> Tensor:
        """Log signal, and log interference plus noise, that an action gives each link on the known channels.

        A critic need not learn to invert matrices then, and its gradient reaches the action through the head.

        :returns: [B, M, K, 2]
        """
        with torch.autocast(action.device.type, enabled=False):
            channels = observation.known.channels.repeat(action.shape[1])
            decision = self._decode(observation, action, channels) if decision is None else decision
            signal, disturbance = link_powers(channels, *decision)
            view = torch.stack([signal + 1, disturbance], dim=-1).log10() / DECADES
        return view.unflatten(0, (-1, action.shape[1]))

    def flat(self, observation: Observation) -> Tensor:
        """Raw CSI and priorities.

        :raises ValueError: a cell of another size; one of as many coefficients would be misread
        """
        own, found = cell_of(self.config), cell_of(observation.known.channels)
        if found != own:
            raise ValueError(
                f"this mlp network was built for {described(own)} and cannot serve {described(found)}; the link_graph "
                "network can"
            )
        return flat_cell(observation)

    # ------------------------------------------------------------------ Measurable

    def measure(self, state: CellState, decision: Decision) -> Tensor:
        """Link rates [B, M, K] on the true channels, bit/s/Hz."""
        return rates_of(state.channels, *decision)

    def utility(self, observation: Observation, decision: Decision) -> Tensor:
        """Link rates [B, M, K] on the known channels, bit/s/Hz."""
        return rates_of(observation.known.channels, *decision)

    def frozen(self, drops: int, seed: int, device: str | torch.device) -> CellState:
        """Evaluation drops, the same for every policy."""
        return evaluation_states(self.config, drops, seed, device)

    def references(self) -> dict[str, Policy]:
        """Decisions without learning, by name."""
        c = self.config
        found = reference_policies(self.objective, c.antenna_power)
        if self.objective.kind == MAX_MIN and c.antenna_power is None and not (c.downlink_users and c.uplink_users):
            found["max_min"] = lambda state: max_min(state.estimate, state.weights)
        return found

    def bound(self, state: CellState) -> Tensor:
        """What nothing can pass, [B]: the weighted sum rate without any interference, the rate of all at once, or the
        efficiency without any interference."""
        if self.objective.kind == MAX_MIN:
            return common_rate(state.channels, state.weights)
        if self.objective.kind == ENERGY:
            return efficiency_bound(state.channels, state.weights, self.objective.consumption)
        return (interference_free_rates(state.channels, state.weights) * state.weights).sum(-1)

    def metrics(self, utility: Tensor, weights: Tensor, decision: Decision) -> dict[str, float]:
        """Summary of link rates [B, K], and of the decisions that brought them."""
        from d2rl.wireless.rate_summary import (
            rate_summary,
        )  # torchmetrics takes seconds to import, which no decision waits for

        found = rate_summary(utility, weights)
        down, up = utility.double().tensor_split([self.config.downlink_users], dim=-1)
        found |= {"downlink_rate": float(down.sum(-1).mean()), "uplink_rate": float(up.sum(-1).mean())}
        return found if self.objective.plain else found | self.objective.metrics(utility, weights, decision)

    def refine(self, observation: Observation, decision: Decision, iterations: int) -> Decision:
        """The best decision, by the objective on what is known, on the way of iterations of accelerated WMMSE from it.

        :raises InputError: channels or weights that cannot be refined
        """
        channels = observation.known.channels
        check_weights(channels.validate(), observation.weights)
        limit = self.config.antenna_power
        if limit is not None or not self.objective.plain:
            return improve_by(self.objective, channels, *decision, observation.weights, iterations, limit)
        return refined(channels, *decision, observation.weights, iterations)

    # ------------------------------------------------------------------ Exportable

    outputs = ("precoder", "uplink_power")

    def examples(self, count: int, seed: int) -> CellState:
        """The first evaluation drops of a seed."""
        return self.frozen(count, seed, "cpu")

    def known(self, state: CellState) -> dict[str, Tensor]:
        """The estimated channels and the priorities."""
        return {**state.estimate.tensors(), "weights": state.weights}

    def observe_known(self, known: Mapping[str, Any]) -> Observation:
        """Features of the estimated channels."""
        *channels, weights = known.values()
        return observe(ChannelState(*channels), weights, (self.head.layout.down, self.head.layout.up))

    # ------------------------------------------------------------------ Prioritised

    def notice_priorities(self, state: CellState) -> None:
        """Say, once, that priorities lie outside of what training in this scenario shows a policy."""
        notice_priorities(self.config, state.weights)

    def with_priorities(self, observation: Observation, weights: Tensor) -> Observation:
        """The same states under N versions of their priorities [B, N, K]."""
        return observation.reweighted(weights, lambda one: log_weight(one).unsqueeze(-1))

    def at_power(self, observation: Observation, level: float) -> Observation:
        """The same states if all powers could be ``level`` of theirs at most: channels that are so much weaker."""
        if level == 1:
            return observation
        channels = observation.known.channels.map(lambda tensor: level**0.5 * tensor)
        return self.observe_known({**channels.tensors(), "weights": observation.weights})

    def lowered(self, decision: Decision, level: float) -> Decision:
        """What a decision for :meth:`at_power` is in the states themselves."""
        precoder, power = decision
        return level**0.5 * precoder, level * power

    # ------------------------------------------------------------------ Generative

    def row_sizes(self) -> dict[str, int]:
        """Real numbers of each channel that plays a part."""
        return row_sizes(self.config)

    def place_sizes(self) -> dict[str, int]:
        """Of users, where the states tell their positions."""
        if self.config.channel_bank and scenario_bank(self.config).positions is None:
            return {}
        return {name: PLACE_SIZE for name in ("downlink", "uplink") if name in self.row_sizes()}

    def notice_placeless(self) -> None:
        """Say, once, that SENPNN could go by places, had the states any."""
        bank = self.config.channel_bank
        notice_once(f"scenario.channel_bank={bank} does not tell where users are: SENPNN goes by mean gains alone.")

    def rows(self, state: CellState) -> dict[str, Rows]:
        """Whitened small-scale coefficients.

        The phase common to a user's channel changes no rate; it is arbitrary but for a line of sight of
        ``scenario.rician``, whose first antenna has phase 0.
        """
        return rows_of(state, self.row_sizes(), bool(self.config.channel_bank) or self.config.rician is None)

    def with_rows(self, state: CellState, numbers: Mapping[str, Tensor], generator: torch.Generator) -> CellState:
        """The same geometry with other small-scale coefficients, and new estimates of the channels.

        :param numbers: [B, n, d] of each kind
        :param generator: of the errors of the estimates
        """
        return self.cells.with_channels(state, with_numbers(state, self.row_sizes(), numbers), generator)

    def held_out(self, count: int, device: torch.device) -> tuple[CellState, CellState | None]:
        """The last fifth of a fixed set, else new drops."""
        stored = self.cells.stored(device)
        if stored is None:
            return evaluation_states(self.config, count, stream("held out"), device), None
        kept = stored.batch // 5
        # a set too small to share is trained and judged on as a whole
        return (stored[-kept:], stored[:-kept]) if kept > 1 else (stored, stored)

    def plausibility(self, real: CellState, made: CellState, generator: torch.Generator) -> dict[str, dict[str, Any]]:
        """Distances between real and made channels, beside those between real and real ones."""
        from d2rl.problems.full_duplex.plausibility import plausibility

        return plausibility(real.channels, made.channels, real.gains, made.gains, bootstrap=10, generator=generator)

    # ------------------------------------------------------------------ Remembering

    def state_dict(self) -> dict[str, Any]:
        """The fixed set of states, where there is one."""
        return self.cells.state_dict()

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue with it."""
        self.cells.load_state_dict(saved)


def consumption(config: FullDuplexConfig) -> Consumption:
    """What decisions take in a scenario."""
    base_station, user, circuits = (
        10 ** (p / 10 - 3) for p in (config.bs_power, config.user_power, config.circuit_power)
    )
    return Consumption(base_station, user, circuits, config.bandwidth)

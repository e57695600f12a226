"""Every problem and every policy network passes the conformance test, which catches those that break a rule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from d2rl.agent import D2RL
from d2rl.envs import FullDuplexConfig
from d2rl.problems import load_config, make_problems
from d2rl.problems.full_duplex.problem import FullDuplexProblem
from d2rl.problems.traffic.problem import TrafficProblem
from d2rl.problems.traffic.settings import TrafficConfig
from d2rl.testing import check_policy, check_problem

CELLS = {
    "default": {},
    "switching head": {"head": "switching"},
    "several passes": {"head": "switching", "passes": 3},
    "settling head": {"head": "settling", "passes": 2},
    "beamforming head": {"head": "beamforming"},
    "stored states": {"stored_states": 7},
    "imperfect CSI": {"csi_error": 0.1},
    "line of sight, priorities": {"rician": 10.0, "priority_user": 0.5},
    "short episodes": {"episode_length": 2},
    "downlink alone": {"uplink_users": 0},
    "uplink alone": {"downlink_users": 0},
    "downlink alone, beamforming head": {"uplink_users": 0, "head": "beamforming"},
    "one user each": {"downlink_users": 1, "uplink_users": 1},
    "one sum": {"feedback": "scalar", "priority_user": 0.5},
    "overloaded": {"downlink_users": 5, "uplink_users": 3, "transmit_antennas": 2, "receive_antennas": 2},
}


@pytest.mark.parametrize("name", CELLS)
def test_full_duplex_cells_conform(name):
    check_problem(FullDuplexProblem(FullDuplexConfig(**CELLS[name])))


@pytest.mark.parametrize("kind", ["link_graph", "mlp"])
@pytest.mark.parametrize("policy", ["actor", "aenpnn"])
def test_policy_networks_conform(policy, kind):
    agent = D2RL(load_config(["conf=full_duplex", f"network.kind={kind}", "network.width=8"]))
    check_policy(getattr(agent, policy), agent.problem)


class Broken(FullDuplexProblem):
    """A problem whose one mistake is given by ``fault``."""

    fault = ""

    def observe(self, state):
        seen = super().observe(state)
        if self.fault == "batch":
            return replace(seen, nodes=seen.nodes - seen.nodes.mean(0, keepdim=True))
        if self.fault == "nan":
            return replace(seen, edges=seen.edges * float("nan"))
        if self.fault == "order":
            return replace(seen, nodes=seen.nodes + torch.arange(seen.nodes.shape[1])[:, None])
        return seen

    def decode(self, observation, action):
        precoder, power = super().decode(observation, action)
        return (2 * precoder, power) if self.fault == "limit" else (precoder, power)

    def step(self, state, decision, generator):
        if self.fault == "writes":
            state.weights.mul_(2)
        step = super().step(state, decision, generator)
        if self.fault == "endogenous":
            return replace(step, state=replace(step.state, weights=decision[1][: len(step.truncated), :1] + 1))
        return step

    def bound(self, state):
        return super().bound(state) * (0.1 if self.fault == "bound" else 1)

    def rows(self, state):
        factor = 2 if self.fault == "rows" else 1
        return {name: replace(rows, numbers=factor * rows.numbers) for name, rows in super().rows(state).items()}


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("batch", "depends on the other states"),
        ("nan", "NaN or infinite"),
        ("order", "order of entities"),
        ("limit", "breaks a limit"),
        ("writes", "writes into the state"),
        ("endogenous", "exogenous, but"),
        ("bound", "passes the bound"),
        ("rows", "loses rows"),
    ],
)
def test_a_fault_is_found_and_named(fault, told):
    problem = Broken(FullDuplexConfig())
    problem.fault = fault
    with pytest.raises(AssertionError, match=told):
        check_problem(problem)


class MovingChannels(TrafficProblem):
    """Channels of which it is said that no decision moves them."""

    fault = ""

    def step(self, state, decision, generator):
        step, factor = super().step(state, decision, generator), 1.0 + float(decision[1].mean())
        if self.fault == "moved":
            channels = step.state.cell.channels.map(lambda tensor: factor * tensor)
            step = replace(step, state=replace(step.state, cell=replace(step.state.cell, channels=channels)))
        return step

    def with_rows(self, state, numbers, generator):
        made = super().with_rows(state, numbers, generator)
        if self.fault == "goes on":
            made = replace(made, cell=replace(made.cell, scattered=made.cell.channels))
        return made


@pytest.mark.parametrize(
    ("fault", "told"),
    [("moved", "exogenous_rows, but rows of .* after other decisions"), ("goes on", "after a synthetic state")],
)
def test_channels_that_decisions_or_synthetic_ones_move_are_found(fault, told):
    problem = MovingChannels(TrafficConfig(), FullDuplexConfig(episode_length=40, head="switching"))
    problem.fault = fault
    with pytest.raises(AssertionError, match=told):
        check_problem(problem)


class Misreporting(TrafficProblem):
    """Reports of three slots, with the one mistake that ``fault`` names."""

    fault = ""

    def step(self, state, decision, generator):
        step = super().step(state, decision, generator)
        if not self.tells_sums:
            return step
        if self.fault == "another sum":
            return replace(step, utility=1.02 * step.utility)
        if self.fault == "early":
            return replace(step, utility=step.utility - 1)
        if self.fault == "too many slots":
            return replace(step, reported=step.reported * 2)
        if self.fault == "never":
            return replace(step, utility=0 * step.utility, reported=0 * step.reported)
        return step


def misreporting(fault, **scenario):
    traffic = TrafficConfig(feedback="report", report_slots=3, load=2.0)
    problem = Misreporting(traffic, FullDuplexConfig(**{"episode_length": 40, "head": "switching"} | scenario))
    problem.fault = fault
    return problem


@pytest.mark.parametrize("scenario", [{}, {"priority_user": 0.5}, {"episode_length": 5}])
def test_reports_conform(scenario):
    check_problem(misreporting("", **scenario))


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("another sum", r"the report of slot 2 says -.*weighted sums of what their entities had in its slots.* are -"),
        ("early", r"utility of slot 0 is not 0, though its report is still to come"),
        ("too many slots", r"reported of slot 2 says 6, 6, 6 slots, and 3, 3, 3 have passed"),
        ("never", "no report in 3 slots, which report_slots says"),
    ],
)
def test_a_report_that_contradicts_the_links_is_found_and_named(fault, told):
    with pytest.raises(AssertionError, match=told):
        check_problem(misreporting(fault))


def test_every_registered_problem_is_made_by_its_name():
    assert [problem.name for problem in make_problems(load_config([]))] == ["full_duplex"]

"""The surface as a problem: entities, actions, priorities, and bad settings."""

from __future__ import annotations

import math

import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.common.errors import ConfigError
from d2rl.problems import check_config, load_config, make_problems
from d2rl.problems.ris.problem import RisProblem
from d2rl.problems.ris.settings import RisConfig
from d2rl.testing import check_policy, check_problem

HOTSPOTS = {
    "default": {},
    "one user": {"users": 1},
    "one element": {"elements": 1},
    "more users than antennas": {"users": 5, "antennas": 2, "elements": 3},
    "nothing blocked": {"blocking": 0.0},
    "no direct path at all": {"blocking": 1.0, "blocking_loss": 300.0},
    "no gradient steps, priorities": {"gradient_steps": 0, "priority_user": 0.5},
    "Rayleigh": {"surface_rician": None, "user_rician": None},
}
SMALL = {"users": 3, "elements": 6, "antennas": 4, "priority_user": 0.3}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def problem():
    return RisProblem(RisConfig(**SMALL))


@pytest.mark.parametrize("name", HOTSPOTS)
def test_hotspots_conform(name, monkeypatch):
    monkeypatch.setattr("d2rl.problems.ris.references.ALTERNATIONS", 5)
    check_problem(RisProblem(RisConfig(**HOTSPOTS[name])))


@pytest.mark.parametrize("kind", ["link_graph", "mlp"])
@pytest.mark.parametrize("policy", ["actor", "aenpnn"])
def test_policy_networks_conform(policy, kind):
    agent = D2RL(load_config(["problem=ris", "ris.elements=4", f"network.kind={kind}", "network.width=8"]))
    check_policy(getattr(agent, policy), agent.problem)


def test_an_element_earns_nothing_and_the_weighted_sum_is_that_of_the_users(problem):
    state = problem.reset(4, seeded())
    observation = problem.observe(state)
    decision = problem.decode(observation, torch.zeros(4, 1, problem.layout.size))
    utility = problem.measure(state, decision)
    assert bool((utility[..., 3:] == 0).all())
    assert bool((utility[..., :3] > 0).all())
    assert bool((observation.baseline[:, 3:] == 0).all())
    assert problem.metrics(utility.squeeze(1), state.weights, decision)["weighted_sum_rate"] == pytest.approx(
        float((utility.squeeze(1) * state.weights).sum(-1).mean())
    )


def test_the_number_of_an_element_is_its_turn(problem):
    observation = problem.observe(problem.reset(2, seeded()))
    action = torch.zeros(2, 1, problem.layout.size)
    action[..., -1] = 0.5
    reflection, _ = problem.decode(observation, action)
    turn = reflection / observation.known.reflection
    assert torch.allclose(turn[:, :-1], torch.ones_like(turn[:, :-1]), atol=1e-6)
    assert torch.allclose(turn[:, -1].angle(), torch.full((2,), math.pi / 2), atol=1e-5)


def test_a_policy_follows_the_order_of_users_and_elements(problem):
    agent = D2RL(load_config(["problem=ris", *(f"ris.{key}={value}" for key, value in SMALL.items())]))
    torch.nn.init.normal_(agent.actor.output.linear.weight, std=0.3, generator=seeded(1))
    state, orders = problem.reset(4, seeded()), [torch.tensor([2, 0, 1]), torch.tensor([5, 1, 0, 4, 2, 3])]
    rates = []
    for one in (state, problem.permuted(state, orders)):
        observation = problem.observe(one)
        action = agent.propose(observation, 1, seeded())
        rates.append(problem.measure(one, problem.decode(observation, action))[:, 0])
    assert torch.allclose(rates[0][:, orders[0]], rates[1][:, :3], rtol=1e-3, atol=1e-3)


def test_a_critic_sees_the_powers_that_decide_the_rates(problem):
    state = problem.reset(4, seeded())
    observation = problem.observe(state)
    action = torch.rand(4, 2, problem.layout.size, generator=seeded(1)) * 2 - 1
    signal, interference = (10 ** (3 * problem.view(observation, action)) - 1).unbind(-1)
    assert bool((signal[..., 3:] == 0).all())
    rates = torch.log2(1 + signal / (1 + interference))
    assert torch.allclose(rates, problem.utility(observation, problem.decode(observation, action)), atol=1e-2)


def test_other_priorities_change_the_priority_feature_alone(problem):
    state = problem.reset(4, seeded())
    observation, asked = problem.observe(state), torch.ones(4, 1, 9) * torch.tensor([1.0, 2.0, 4.0] + 6 * [0.0])
    other = problem.with_priorities(observation, asked)
    assert torch.equal(other.nodes[..., :-1], observation.nodes[..., :-1])
    assert torch.allclose(other.nodes[:, :3, -1], asked[:, 0, :3].log())
    assert bool((other.nodes[:, 3:, -1] == 0).all())


def test_refining_a_decision_only_raises_the_weighted_rate(problem):
    state = problem.reset(8, seeded())
    observation = problem.observe(state)
    decision = problem.decode(observation, torch.rand(8, 1, problem.layout.size, generator=seeded(1)) * 2 - 1)
    before, after = (
        (problem.measure(state, one).squeeze(1) * state.weights).sum(-1)
        for one in (decision, problem.refine(observation, decision, 3))
    )
    assert bool((after > before - 1e-4).all())
    assert float((after - before).mean()) > 0.3


def test_every_slot_shows_new_drops(problem):
    state = problem.reset(4, seeded())
    decision = problem.decode(problem.observe(state), torch.zeros(4, 1, problem.layout.size))
    step = problem.step(state, decision, seeded(1))
    assert bool(step.truncated.all())
    assert not bool(step.terminated.any())
    assert not torch.equal(step.state.channels.direct, state.channels.direct)


def test_frozen_drops_ask_for_no_priorities(problem):
    assert bool((problem.frozen(8, 0, "cpu").weights[:, :3] == 1).all())


def test_it_is_made_by_its_name():
    (made,) = make_problems(load_config(["conf=ris", "ris.elements=7"]))
    assert isinstance(made, RisProblem)
    assert made.layout.counts == (4, 7)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("ris.users=0", r"ris\.users cannot be 0; it must be a whole number at least 1"),
        ("ris.elements=0", r"ris\.elements cannot be 0"),
        ("ris.elements=1e6", r"ris\.elements cannot be 1e6; it must be a whole number at least 1 and at most 256"),
        ("ris.blocking=2", r"ris\.blocking cannot be 2"),
        ("ris.element=3", r"ris\.element is not a key. Did you mean ris\.elements"),
        ("scenario.downlink_users=3", r"scenario\.downlink_users is not a key"),
        ("ris.minimum_distance=20", r"ris\.minimum_distance \(20\) must be below ris\.user_radius \(15\), both in m"),
        ("ris.user_radius=80", r"ris\.user_radius \(80\) must be below ris\.surface_distance \(50\), both in m"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_sentence(asked, told):
    with pytest.raises(ConfigError, match=told):
        check_config(load_config(["conf=ris", asked]))

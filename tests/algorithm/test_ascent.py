"""Steps up the gradient of what is known of the utility: a hill whose top is known, and the problems of the package."""

from __future__ import annotations

import pytest
import torch

from d2rl.algorithm.ascent import ascend
from d2rl.algorithm.checks import check_evaluation
from d2rl.algorithm.decisions import DecisionRule, decide
from d2rl.algorithm.policy import Policy
from d2rl.common.errors import ConfigError
from d2rl.problems import load_config, make_problems
from d2rl.problems.base import Layout, Observation

TOP = torch.tensor([0.3, -0.5, 0.0])


class Hill:
    """The utility of entity k is minus the squared distance of its number from the top."""

    def decode(self, observation, action):
        return (action.flatten(0, 1),)

    def utility(self, observation, decision):
        return -(decision[0] - TOP).square().unsqueeze(1)


def on_a_hill(action: torch.Tensor, steps: int, weights: torch.Tensor | None = None) -> torch.Tensor:
    weights = torch.ones(len(action), 3) if weights is None else weights
    empty = torch.empty(len(action), 3, 0)
    seen = Observation(empty, empty.unsqueeze(2), weights, torch.zeros_like(weights), None, Layout((3,), (1,)))
    with torch.inference_mode():
        return ascend(Hill(), seen, action.unsqueeze(1).clone(), steps)[0]


def test_it_ends_at_the_top():
    assert torch.allclose(on_a_hill(torch.tensor([[0.6, -0.2, 0.0], [-0.4, 0.3, -0.3]]), 60), TOP, atol=0.01)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_no_state_ends_lower_than_it_began(steps):
    start = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before, after = ((numbers - TOP).square().sum(-1) for numbers in (start, on_a_hill(start, steps)))
    assert (after <= before + 1e-6).all()
    assert after.mean() < before.mean()


def test_what_stands_on_the_top_stays():
    assert torch.allclose(on_a_hill(TOP.repeat(2, 1), 5), TOP, atol=1e-6)


def test_a_number_on_its_limit_can_leave_it():
    assert (on_a_hill(torch.ones(1, 3), 100) < 1).all()


def test_what_has_no_priority_is_not_ascended():
    start = torch.full((1, 3), 0.8)
    found = on_a_hill(start, 20, torch.tensor([[1.0, 0.0, 1.0]]))
    assert torch.allclose(found[0, 1], start[0, 1], atol=1e-5)
    assert torch.allclose(found[0, [0, 2]], TOP[[0, 2]], atol=0.05)


@pytest.mark.parametrize("conf", ["full_duplex", "ris", "traffic"])
@pytest.mark.parametrize("count", [1, 4])
def test_decisions_gain_by_it_and_keep_the_limits(conf, count):
    policy = Policy(load_config([f"conf={conf}", "network.width=8", "trainer.accelerator=cpu"]), True).eval()
    problem = policy.problem
    state = problem.reset(6, torch.Generator().manual_seed(1))
    seen, found = problem.observe(state), []
    for steps in (0, 5):
        with torch.inference_mode():  # as evaluations decide
            state = state.map(torch.clone)
            seen = problem.observe(state)
        decision = decide(policy, state, DecisionRule(best_of=count, ascend=steps), torch.Generator().manual_seed(2))
        assert not any(part.requires_grad for part in decision)
        found.append((problem.utility(seen, decision)[:, 0] * seen.weights).sum(-1))
        if hasattr(problem, "feasible"):
            assert problem.feasible(decision).all()
    assert (found[1] >= found[0] - 1e-4).all()
    assert found[1].mean() >= found[0].mean()


@pytest.mark.parametrize(
    "given",
    [
        ["conf=full_duplex", "scenario.objective=max_min"],
        ["conf=full_duplex", "scenario.objective=minimum", "scenario.minimum_rate=1"],
        ["conf=gymnasium", "gymnasium.id=Pendulum-v1"],
    ],
    ids=lambda given: given[-1],
)
def test_where_no_weighted_sum_has_a_closed_form_it_is_refused(given):
    config = load_config([*given, "evaluation.ascend=3"])
    with pytest.raises(ConfigError, match=r"evaluation.ascend=3 asks for what .* set evaluation.ascend=0"):
        check_evaluation(config, make_problems(config)[0])

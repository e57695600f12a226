"""What callbacks ask of an agent: answers, and that asking changes nothing."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from torch import Tensor

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.diagnostics import JUDGED, goodhart_gap, state_explorer_loss, trained_state_loss


def build(tiny, *overrides: str) -> D2RL:
    """An agent with a generator, as at the start of a fit."""
    L.seed_everything(0, verbose=False)
    agent = D2RL(tiny("reward.case=designed_gdm", "stages.state=0", *overrides))
    agent.on_fit_start()
    return agent


@pytest.mark.parametrize("action_stage", [False, True])
def test_asking_changes_no_weight_and_leaves_no_gradient(tiny, action_stage):
    agent = build(tiny)
    agent.stages = {"action": action_stage, "reward": True, "state": True}
    before, state = {name: t.clone() for name, t in agent.state_dict().items()}, agent.world.state
    for probe in (state_explorer_loss, trained_state_loss, goodhart_gap):
        assert torch.isfinite(probe(agent))
    assert all(torch.equal(t, before[name]) for name, t in agent.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in agent.parameters())
    assert agent.world.state is state


def test_the_loss_of_the_state_explorer_is_that_of_the_states_kept_from_it(tiny):
    agent, kept = build(tiny), build(tiny).held_out[:JUDGED]
    agent.generator.manual_seed(3)
    found = state_explorer_loss(agent)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(found, agent.senpnn.held_out_loss(agent.problem.rows(kept), generator))


def test_a_state_explorer_that_learns_few_states_by_heart_knows_them_better(tiny):
    agent = build(tiny, "scenario.rician=20", "scenario.stored_states=10")

    def excess() -> float:
        held_out, trained = (
            sum(probe(agent).item() for _ in range(8)) for probe in (state_explorer_loss, trained_state_loss)
        )
        return held_out / trained

    assert 0.8 < excess() < 1.2  # it has learned nothing yet
    optimizer = agent.learners["senpnn"].optimizer()
    for _ in range(120):
        optimizer.zero_grad()
        agent.state_loss(agent.rows_due()).backward()
        optimizer.step()
    assert excess() > 1.2


class Towards:
    """A reward explorer whose rewards rise towards one action of every state, or away from it."""

    def __init__(self, view: Tensor, sign: float):
        self.view, self.sign = view, sign

    def generate(self, observation, view: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        return -self.sign * (view - self.view).square().sum(-1)


def test_the_goodhart_gap_has_the_sign_of_what_generated_rewards_lead_to(tiny):
    """Generated rewards that rise towards signals of more power and less interference, and their opposite."""
    agent = build(tiny)
    del agent.renpnn
    state = agent.world.state
    action = agent.propose(agent.problem.observe(state), 1, agent.generator)
    view = agent.view(agent.problem.observe(state), action)
    better = view + torch.tensor([0.5, -0.5])
    gaps = []
    for sign in (1.0, -1.0):
        agent.renpnn = Towards(better, sign)
        gaps.append(goodhart_gap(agent).item())
    assert gaps[0] > 0.05
    assert gaps[1] < -0.05


def test_a_longer_step_changes_more(tiny):
    agent = build(tiny)
    state = agent.world.state
    gaps = []
    for rate in (0.0, 0.01, 0.1):
        agent.generator.manual_seed(0)
        gaps.append(abs(goodhart_gap(agent, rate).item()))
    assert gaps[0] == 0
    assert gaps[0] < gaps[1] < gaps[2]
    assert agent.world.state is state

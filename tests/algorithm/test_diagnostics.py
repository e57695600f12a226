"""What callbacks ask of an agent: answers, and that asking changes nothing."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from torch import Tensor

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.diagnostics import (
    JUDGED,
    goodhart_gap,
    reward_lead,
    state_explorer_loss,
    trained_state_loss,
    unseen_loss,
)
from d2rl.algorithm.explorers.controls import mixed


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
    for _ in range(2):
        agent.interact()
    before, state = {name: t.clone() for name, t in agent.state_dict().items()}, agent.world.state
    for probe in (state_explorer_loss, trained_state_loss, goodhart_gap, reward_lead, unseen_loss):
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


def test_what_is_lost_on_mixed_states_counts_beyond_their_baselines(tiny, monkeypatch):
    """A policy that halves its actions where it has not been; every state by itself."""
    agent = build(tiny)
    problem, real = agent.problem, agent.world.state
    monkeypatch.setattr(problem, "reset", lambda batch, generator: real)
    good = agent.propose(problem.observe(real), 1, agent.generator)
    seen_so_far = []

    def propose(observation, count, generator):
        seen_so_far.append(observation)
        return good / len(seen_so_far)

    monkeypatch.setattr(agent, "propose", propose)
    found, reached = unseen_loss(agent).item(), []
    for observation, share in zip(seen_so_far, (1.0, 0.5), strict=True):
        for index in range(real.batch):
            one = observation[[index]]
            rates = problem.utility(one, problem.decode(one, good[[index]] * share))[0, 0]
            total, baseline = ((numbers * one.weights[0]).sum().item() for numbers in (rates, one.baseline[0]))
            reached.append((total, total - baseline))
    known, unknown = reached[: real.batch], reached[real.batch :]
    lost = sum(own for _, own in known) - sum(own for _, own in unknown)
    assert found == pytest.approx(lost / sum(total for total, _ in known), rel=1e-3)
    assert found > 0.01


def test_mixed_states_have_the_rows_of_several_real_ones(tiny):
    """Up to a common phase; each row stays in its place."""
    agent = build(tiny)
    rows = agent.problem.rows(agent.world.state)
    for name, real in rows.items():
        norms = real.numbers.norm(dim=-1)
        found = mixed(real, real, torch.Generator().manual_seed(0)).norm(dim=-1)
        same = (found.unsqueeze(1) - norms.unsqueeze(0)).abs() < 1e-5  # of each state and other state, in a place
        assert same.any(1).all(), name
        assert not same.diagonal().all(-1).any(), name


def test_nothing_is_lost_where_there_is_one_state_alone(tiny, monkeypatch):
    """A policy that phases do not matter to."""
    agent = build(tiny)
    one = agent.world.state[[0]]
    monkeypatch.setattr(agent.problem, "reset", lambda batch, generator: one)
    assert unseen_loss(agent).item() == pytest.approx(0, abs=1e-4)


class Knows:
    """A reward explorer that knows, or denies, what a sum over links of what the critic sees tells."""

    def __init__(self, sign: float):
        self.sign = sign

    def generate(self, observation, view: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        return self.sign * view.sum((-2, -1)).unsqueeze(-1)


@pytest.mark.parametrize("candidates", [1, 3])
def test_the_lead_of_the_reward_explorer_is_what_it_ranks_better_than_the_critic(tiny, monkeypatch, candidates):
    agent = build(tiny, "reward.case=raw_gdm", f"action.candidates={candidates}")
    for _ in range(3):
        agent.interact()
    told = agent.replay.storage["view"].sum((-2, -1))
    utility = agent.replay.storage["utility"]
    utility.copy_((told / agent.replay.form.observation.layout.entities).unsqueeze(-1).expand_as(utility))
    agent.replay.storage["observation.weights"].fill_(1.0)
    del agent.renpnn
    for own, critics, lead in ((1, -1, 2), (1, 1, 0), (-1, 1, -2)):
        agent.renpnn = Knows(own)
        monkeypatch.setattr(agent, "critic_value", lambda seen, view, sign=critics: sign * view.sum((-2, -1)))
        assert reward_lead(agent).item() == pytest.approx(lead, abs=1e-5)

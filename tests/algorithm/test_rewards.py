"""Reward cases: what they make of measured utilities, what they are called, and one more from outside."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from conftest import problem_of
from torch import Tensor

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.rewards import CASES, Case, designed_reward, raw_reward, reward_case, to_scalar
from d2rl.common.errors import ConfigError
from d2rl.problems.base import Layout, Observation
from d2rl.problems.full_duplex.observation import observe
from d2rl.wireless import full_uplink_power, link_rates, rzf


def seen(weights: Tensor, baseline: Tensor) -> Observation:
    """What reward cases look at of a state, without features."""
    nothing = torch.zeros(*weights.shape, 0)
    return Observation(nothing, nothing, weights, baseline, None, Layout((weights.shape[1],), (1,)))


def test_raw_reward_is_the_weighted_sum(generator):
    utility, weights = torch.rand(5, 3, 4, generator=generator), torch.rand(5, 4, generator=generator)
    reward = raw_reward(utility, seen(weights, weights))
    assert reward.shape == (5, 3, 1)
    for b in range(5):
        for m in range(3):
            expected = sum(utility[b, m, k].item() * weights[b, k].item() for k in range(4))
            assert reward[b, m, 0].item() == pytest.approx(expected, rel=1e-5)


def test_a_scalar_weighs_rewards_of_entities_and_takes_one_in_all_as_it_is(generator):
    rewards, weights = torch.randn(5, 3, 4, generator=generator), torch.rand(5, 4, generator=generator)
    value = to_scalar(rewards, weights)
    assert value.shape == (5, 3)
    for b in range(5):
        for m in range(3):
            expected = sum(rewards[b, m, k].item() * weights[b, k].item() for k in range(4))
            assert value[b, m].item() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(to_scalar(rewards[..., :1], weights), rewards[..., 0])
    # both cases rank decisions by the same measure, up to a constant of the state
    utility, observation = rewards.abs(), seen(weights, rewards[:, 0])
    designed, raw = (to_scalar(case(utility, observation), weights) for case in (designed_reward, raw_reward))
    torch.testing.assert_close(designed - raw, (designed - raw)[:, :1].expand(5, 3), rtol=0, atol=1e-5)


def test_designed_reward_is_what_each_link_gains_over_rzf(channels):
    problem = problem_of(channels, "beamforming")
    observation = observe(channels, torch.ones(16, 10), problem.layout.numbers)
    action = torch.rand(16, 1, 100, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rates = problem.utility(observation, problem.decode(observation, action)).squeeze(1)
    reference = link_rates(channels, rzf(channels), full_uplink_power(channels))
    reward = designed_reward(torch.stack([reference, rates], dim=1), observation)
    assert reward.shape == (16, 2, 10)
    torch.testing.assert_close(reward[:, 0], torch.zeros(16, 10), rtol=0, atol=1e-4)
    for b in range(16):
        for k in range(10):
            expected = rates[b, k].item() - reference[b, k].item()
            assert reward[b, 1, k].item() == pytest.approx(expected, abs=1e-4)


def test_a_case_says_whether_it_is_one_reward_for_each_entity(generator):
    utility, weights = torch.rand(2, 3, 4, generator=generator), torch.rand(2, 4, generator=generator)
    for case in CASES.values():
        shape = case.reward(utility, seen(weights, weights)).shape
        assert shape == (2, 3, 4 if case.per_entity else 1)


def test_an_unknown_case_names_those_there_are(tiny):
    with pytest.raises(ConfigError, match=r"reward\.case=rewarding is unknown; choose one of raw, designed, each"):
        reward_case("rewarding")
    with pytest.raises(ConfigError, match=r"reward\.case=rewarding is unknown"):
        D2RL(tiny("reward.case=rewarding"))


@pytest.mark.parametrize(("given", "case"), [("raw_gdm", "raw"), ("designed_gdm", "designed")])
def test_the_paper_s_names_of_its_cases_stand_for_a_generated_one(tiny, given, case):
    reward = tiny(f"reward.case={given}").reward
    assert (reward.case, reward.generated) == (case, True)
    assert not tiny(f"reward.case={case}").reward.generated


def worst(utility: Tensor, observation: Observation) -> Tensor:
    """The smallest utility of the entities."""
    return utility.amin(-1, keepdim=True)


@pytest.mark.parametrize(
    "case",
    [Case(worst, per_entity=False), Case(lambda utility, seen: utility.sqrt(), per_entity=True)],
    ids=["one in all", "each entity"],
)
@pytest.mark.parametrize("generated", ["", "_gdm"], ids=["measured", "generated"])
def test_a_case_from_outside_is_learned_from_once_its_stage_begins(tiny, fit, monkeypatch, case, generated):
    monkeypatch.setitem(CASES, "own", case)
    L.seed_everything(0, verbose=False)
    agent = D2RL(tiny(f"reward.case=own{generated}", "ddpg.warmup_updates=0", "ddpg.reward_scale=5"))
    assert agent.generates_reward == bool(generated)
    agent.stages["reward"] = True
    before = [p.detach().clone() for p in agent.critic.parameters()]
    fit(agent)
    batch = agent.draw(8)
    unit = 5 / 5**0.5 if case.per_entity else 5  # so that the sum over K entities keeps the unit of one in all
    expected = case.reward(batch.utility, batch.observation) / unit
    torch.testing.assert_close(agent.measured_reward(batch), expected)
    assert agent.skipped_steps() == 0
    assert any(not torch.equal(p, old) for p, old in zip(agent.critic.parameters(), before, strict=True))
    if generated:
        assert agent.reward_of(batch).shape == expected.shape
        agent.fallback = True
    torch.testing.assert_close(agent.reward_of(batch), expected)

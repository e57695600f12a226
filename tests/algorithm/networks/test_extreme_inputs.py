"""What the networks see of channels from silent to 120 dB above noise, and the slope of what a critic says of them."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import extreme_actions, extreme_channels

from d2rl.algorithm.agent import D2RL
from d2rl.problems.full_duplex.observation import observe

bounded = settings(
    max_examples=100, derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
WEIGHTS = st.lists(st.sampled_from([0.0, 1e-6, 1.0, 1e4]), min_size=8, max_size=8)


@bounded
@given(channels=extreme_channels(), weights=WEIGHTS)
def test_an_observation_is_finite(channels, weights):
    observation = observe(channels, torch.tensor(weights)[: channels.links].expand(channels.batch, -1))
    for name, tensor in observation.tensors().items():
        assert bool(torch.isfinite(tensor).all()), name
    assert observation.nodes.abs().max() < 20  # in units of about 30 dB, 10 bit or e
    assert observation.edges.abs().max() < 20


@pytest.fixture(scope="module", params=["powers", pytest.param("numbers", marks=pytest.mark.slow)])
def agent(request, tiny):
    L.seed_everything(0, verbose=False)
    return D2RL(tiny(f"network.critic={request.param}"))


@bounded
@given(data=st.data(), channels=extreme_channels())
def test_the_slope_of_a_critic_is_finite(agent, data, channels):
    observation = observe(channels, torch.ones(channels.batch, channels.links))
    action = data.draw(extreme_actions(agent.problem.head, channels)).requires_grad_()
    value = agent.value(observation, action.unsqueeze(1))
    value.sum().backward()
    assert bool(torch.isfinite(value).all())
    assert bool(torch.isfinite(action.grad).all())


@bounded
@given(channels=extreme_channels())
def test_a_policy_answers_with_finite_actions(agent, channels):
    observation = observe(channels, torch.ones(channels.batch, channels.links))
    generator = torch.Generator().manual_seed(0)
    for stage in (False, True):
        agent.stages["action"] = stage
        output = agent.policy.sample(observation, 1, generator)
        output.square().sum().backward()
        assert bool(torch.isfinite(output).all())
        policy = agent.aenpnn if stage else agent.actor
        assert all(bool(p.grad.isfinite().all()) for p in policy.parameters() if p.grad is not None)
        policy.zero_grad()

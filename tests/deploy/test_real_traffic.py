"""The exported form of a decision for cells with queues equals the complex one."""

from __future__ import annotations

import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.common.errors import ConfigError
from d2rl.deploy.export import decide_with, decision_of, inputs_for
from d2rl.problems import load_config


def make_agent(*overrides):
    agent = D2RL(
        load_config(["problem=traffic", "network.width=8", "trainer.num_envs=2", "ddpg.replay=64", *overrides])
    )
    agent.stages["action"] = "stages.action=0" in overrides
    generator = torch.Generator().manual_seed(0)
    for parameter in (*agent.actor.parameters(), *agent.aenpnn.parameters()):
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return agent


@pytest.mark.parametrize("overrides", [(), ("stages.action=0",), ("traffic.csi_delay=1", "traffic.uplink_deadline=3")])
def test_real_decisions_equal_complex_ones(overrides):
    agent = make_agent(*overrides)
    decision = decision_of(agent)
    states = decision.states(5, seed=0)
    inputs = inputs_for(decision, states, torch.Generator().manual_seed(1))
    pairs, power = decision(*inputs.values())
    expected = decide_with(agent, states, inputs)
    assert torch.allclose(torch.view_as_complex(pairs.contiguous()), expected[0], atol=1e-5)
    assert torch.allclose(power, expected[1], atol=1e-5)
    assert power.any()


def test_links_with_nothing_to_send_are_silent():
    decision = decision_of(make_agent())
    inputs = inputs_for(decision, decision.states(3, seed=0), torch.Generator().manual_seed(1))
    inputs["traffic"][:, [0, 7]] = 0
    pairs, power = decision(*inputs.values())
    assert not pairs[:, :, 0].any()
    assert not power[:, 1].any()
    assert pairs[:, :, 1:].any()


def test_what_cannot_be_exported_is_refused():
    with pytest.raises(ConfigError, match="one decision of the link_graph network"):
        decision_of(make_agent(), best_of=2)

"""The exported form of a decision for cells with queues equals the complex one."""

from __future__ import annotations

import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.deploy.real_decision import RealDecision
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
    decision = RealDecision(agent, best_of=2 if "stages.action=0" in overrides else 1)
    known = agent.problem.known(agent.problem.examples(5, seed=0))
    inputs = list(decision.inputs(known, torch.Generator().manual_seed(1)).values())
    with torch.no_grad():
        precoder, power = decision(*inputs)
        expected = decision.decide(known, *inputs[len(known) :])
    torch.testing.assert_close(torch.view_as_complex(precoder.contiguous()), expected[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(power, expected[1], atol=1e-5, rtol=0)
    assert power.any()


def test_links_with_nothing_to_send_are_silent():
    agent = make_agent()
    decision = RealDecision(agent)
    inputs = decision.inputs(agent.problem.known(agent.problem.examples(3, seed=0)))
    inputs["traffic"][:, [0, 7]] = 0
    precoder, power = decision(*inputs.values())
    assert not precoder[:, :, 0].any()
    assert not power[:, 1].any()
    assert precoder[:, :, 1:].any()

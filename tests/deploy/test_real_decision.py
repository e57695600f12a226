"""The decision without complex numbers equals the decision in torch's complex numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import pairs

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.decisions import DecisionRule, decide
from d2rl.common.complex_pair import ComplexPair
from d2rl.deploy.real_decision import RealDecision
from d2rl.problems import load_config
from d2rl.problems.full_duplex.simulator import evaluation_states
from d2rl.wireless import link_rates, random_decision

SMALL = ("trainer.num_envs=4", "ddpg.replay=64")
CELLS = {
    "default": (),
    "more uplink users": ("scenario.downlink_users=2", "scenario.uplink_users=5"),
    "many antennas": ("scenario.downlink_users=3", "scenario.uplink_users=2", "scenario.transmit_antennas=12"),
    "one of each": (*(f"scenario.{side}_users=1" for side in ("downlink", "uplink")), "scenario.receive_antennas=1"),
}


def make_agent(diffusion: bool, *overrides: str) -> D2RL:
    """An agent whose actions reach far from the middle of their range."""
    torch.manual_seed(0)
    agent = D2RL(load_config([*SMALL, *overrides]))
    agent.stages["action"] = diffusion
    for parameter in (*agent.actor.parameters(), *agent.aenpnn.parameters()):
        parameter.data += 0.1 * torch.randn_like(parameter)
    return agent


def largest_difference(agent: D2RL, best_of: int, batch: int = 5, weights: list[float] | None = None) -> float:
    cells = evaluation_states(agent.config.scenario, batch, seed=3)
    if weights:
        cells = replace(cells, weights=torch.tensor(weights).expand(batch, -1))
    generator = torch.Generator().manual_seed(1)
    decision = RealDecision(agent, best_of)
    known = agent.problem.known(cells)
    inputs = decision.inputs(known, generator)
    if best_of > 1:
        inputs["proposal_weights"] = torch.exp(torch.randn(inputs["proposal_weights"].shape, generator=generator))
    with torch.no_grad():
        precoder, power = decision(*inputs.values())
        expected = decision.decide(known, *list(inputs.values())[len(known) :])
    return max(
        float((torch.view_as_complex(precoder.contiguous()) - expected[0]).abs().max()),
        float((power - expected[1]).abs().max()),
    )


@pytest.mark.parametrize(
    ("cell", "best_of", "head", "network", "diffusion"),
    pairs(list(CELLS), (1, 3), ("structured", "switching", "beamforming"), ("link_graph", "mlp"), (False, True)),
)
def test_real_decisions_equal_complex_ones(diffusion, network, head, best_of, cell):
    agent = make_agent(diffusion, f"network.kind={network}", f"scenario.head={head}", *CELLS[cell])
    assert largest_difference(agent, best_of) < 1e-5


@pytest.mark.parametrize("best_of", [1, 3])
@pytest.mark.parametrize("head", ["switching", "settling"])
@pytest.mark.parametrize("cell", CELLS)
def test_real_decisions_equal_complex_ones_after_several_passes(cell, head, best_of):
    agent = make_agent(True, f"scenario.head={head}", "scenario.passes=3", *CELLS[cell])
    assert largest_difference(agent, best_of) < 1e-5


@pytest.mark.parametrize("best_of", [1, 3])
@pytest.mark.parametrize("head", ["switching", "settling", "beamforming"])
def test_real_decisions_silence_the_links_that_complex_ones_do(head, best_of):
    agent = make_agent(True, f"scenario.head={head}", *CELLS["more uplink users"])
    assert largest_difference(agent, best_of, weights=[0.0, 1.0, 1.0, 0.0, 2.0, 1.0, 0.0]) < 1e-5


def test_real_features_equal_the_features_of_training():
    agent = make_agent(False)
    cells = evaluation_states(agent.config.scenario, 32, seed=0)
    known = {**agent.problem.known(cells), "weights": torch.rand(32, 10, generator=torch.Generator().manual_seed(0))}
    pairs = {name: ComplexPair.of(each) if each.is_complex() else each for name, each in known.items()}
    found, expected = agent.problem.observe_known(pairs), agent.problem.observe_known(known)
    for name in ("nodes", "edges", "baseline", "weights"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("self_interference", [-130.0, -90.0, -40.0])
def test_real_rates_equal_link_rates(make_channels, generator, self_interference):
    channels = make_channels(16, self_interference=self_interference)
    precoder, power = random_decision(channels, generator)
    rates = link_rates(channels.map(ComplexPair.of), ComplexPair.of(precoder), power)
    torch.testing.assert_close(rates, link_rates(channels, precoder, power), atol=1e-4, rtol=1e-4)


def test_a_user_without_a_channel_spoils_nothing():
    agent = make_agent(True)
    cells = evaluation_states(agent.config.scenario, 2, seed=0)
    for tensor in (cells.estimate.downlink, cells.estimate.uplink):
        tensor[:, 0] = 0
    decision = RealDecision(agent)
    inputs = decision.inputs(agent.problem.known(cells), torch.Generator().manual_seed(0))
    precoder, power = decision(*inputs.values())
    assert precoder.isfinite().all()
    assert power.isfinite().all()
    assert (precoder[:, :, 0] == 0).all()


@pytest.mark.parametrize("change", [(), ("action.objective=flow", "action.steps=2")], ids=["curved", "straight"])
@pytest.mark.parametrize("best_of", [1, 4])
def test_with_the_noise_of_an_evaluation_the_decision_is_that_of_the_evaluation(best_of, change):
    agent = make_agent(True, *change)
    cells = evaluation_states(agent.config.scenario, 6, seed=0)
    expected = decide(agent, cells, DecisionRule(best_of=best_of), torch.Generator().manual_seed(5))
    decision = RealDecision(agent, best_of)
    inputs = decision.inputs(agent.problem.known(cells), torch.Generator().manual_seed(0))
    rows, links, width = inputs["noise"].shape[2:]
    noise = torch.randn(rows, 6, best_of, links, width, generator=torch.Generator().manual_seed(5))
    inputs["noise"] = noise.permute(1, 2, 0, 3, 4)
    with torch.no_grad():
        precoder, power = decision(*inputs.values())
    torch.testing.assert_close(torch.view_as_complex(precoder.contiguous()), expected[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(power, expected[1], atol=1e-5, rtol=0)


def test_the_trained_agent_is_left_as_it_was():
    agent = make_agent(True, "network.kind=mlp")
    before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    RealDecision(agent)
    assert before.keys() == agent.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in agent.state_dict().items())
    assert all(parameter.requires_grad for parameter in agent.aenpnn.parameters())

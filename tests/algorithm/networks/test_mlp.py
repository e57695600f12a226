"""The plain network: raw channels in, tied to one size of the cell."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from conftest import problem_of

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.networks import make_encoder, make_transition, make_view
from d2rl.algorithm.networks.mlp import HIDDEN_FACTOR, MLPEncoder
from d2rl.config.defaults import NetworkConfig
from d2rl.problems.base import Observation
from d2rl.problems.full_duplex.observation import observe
from d2rl.wireless import ChannelState

SMALL = {"downlink_users": 2, "uplink_users": 3, "transmit_antennas": 4, "receive_antennas": 5}
COEFFICIENTS = 2 * 4 + 3 * 5 + 2 * 3 + 4 * 5


@pytest.fixture
def small(make_channels) -> ChannelState:
    return make_channels(6, **SMALL)


def build(channels: ChannelState, layers: int = 2, view: int = 0):
    """The encoder, or with ``view`` numbers for each link the transition."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config, problem = NetworkConfig(kind="mlp", width=4, layers=layers), problem_of(channels)
        return make_transition(config, problem, view) if view else make_encoder(config, problem)


def seen(channels: ChannelState, head: str = "structured") -> Observation:
    weights = torch.ones(channels.batch, channels.links)
    return observe(channels, weights, problem_of(channels, head).layout.numbers)


def draw_actions(channels: ChannelState, count: int, size: int) -> torch.Tensor:
    return 2 * torch.rand(channels.batch, count, size, generator=torch.Generator().manual_seed(0)) - 1


def flat_of(channels: ChannelState, weights: torch.Tensor) -> torch.Tensor:
    return problem_of(channels).flat(observe(channels, weights))


def test_the_flat_vector_keeps_phases_compresses_magnitudes_and_ends_with_log_weights(small):
    weights = torch.exp(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))
    flat = flat_of(small, weights)
    assert flat.shape == (6, 2 * COEFFICIENTS + 5)
    position = 0
    for tensor in small.tensors().values():
        for value in tensor[1].flatten().tolist():
            length = math.log10(1 + abs(value))
            expected = (length * value.real / abs(value), length * value.imag / abs(value))
            assert flat[1, position : position + 2].tolist() == pytest.approx(expected, abs=1e-5)
            position += 2
    assert flat[1, position:].tolist() == pytest.approx([math.log(weight) for weight in weights[1].tolist()], abs=1e-5)
    assert (flat_of(small.map(torch.zeros_like), torch.ones(6, 5)) == 0).all()


@pytest.mark.parametrize("layers", [1, 3])
def test_the_first_layer_reads_all_coefficients_and_weights(small, layers):
    encoder = build(small, layers)
    shapes = [tuple(p.shape) for p in encoder.parameters() if p.dim() == 2]
    hidden = HIDDEN_FACTOR * 4
    assert shapes == [(hidden, 2 * COEFFICIENTS + 5), *[(hidden, hidden)] * (layers - 1), (5 * 4, hidden)]
    assert encoder(seen(small)).shape == (6, 5, 4)
    assert next(build(small, view=3).parameters()).shape == (hidden, 2 * COEFFICIENTS + 5 + 3 * 5)


def test_the_embedding_depends_on_raw_coefficients_and_weights(small):
    """A common phase of one user's channel changes no rate, but a plain network sees it."""
    encoder, before = build(small), seen(small)
    for name, tensor in small.tensors().items():
        turned = tensor.clone()
        turned[:, 0] *= 1j
        after = observe(dataclasses.replace(small, **{name: turned}), before.weights)
        assert (encoder(after) - encoder(before)).abs().max() > 1e-3, name
    after = observe(small, 2 * before.weights)
    assert (encoder(after) - encoder(before)).abs().max() > 1e-3


def test_the_order_of_users_matters(small):
    encoder, observation = build(small), seen(small)
    permuted = encoder(seen(small.permute_users([1, 0], [0, 1, 2])))
    assert (permuted - encoder(observation)[:, [1, 0, 2, 3, 4]]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "change",
    [
        {"downlink_users": 3},
        {"uplink_users": 2},
        {"transmit_antennas": 5},
        {"receive_antennas": 4},
        {"downlink_users": 3, "uplink_users": 2, "transmit_antennas": 5, "receive_antennas": 4},
    ],
    ids=["more downlink users", "fewer uplink users", "more antennas", "fewer antennas", "directions exchanged"],
)
def test_other_cells_are_refused(small, make_channels, change):
    """Also those of as many coefficients: with directions exchanged, every number would be misread."""
    other = make_channels(6, **{**SMALL, **change})
    with pytest.raises(ValueError, match="link_graph"):
        build(small)(seen(other))
    with pytest.raises(ValueError, match="link_graph"):
        build(small, view=2)(seen(other), torch.zeros(6, 2, other.links, 2))


@pytest.mark.parametrize("critic", ["powers", "numbers"])
@pytest.mark.parametrize("head", ["structured", "beamforming"])
def test_candidates_are_embedded_as_if_each_were_alone(small, head, critic):
    problem, observation = problem_of(small, head), seen(small, head)
    view, size = make_view(NetworkConfig(critic=critic), problem)
    transition, action = build(small, view=size), draw_actions(small, 3, problem.layout.size).requires_grad_()

    def embed(action: torch.Tensor) -> torch.Tensor:
        return transition(observation, view(observation, action))

    together = embed(action)
    assert together.shape == (6, 3, 5, 4)
    for m in range(3):
        torch.testing.assert_close(together[:, m], embed(action[:, m : m + 1])[:, 0], rtol=1e-4, atol=1e-4)
    assert together.std(dim=1).max() > 1e-3
    together.sum().backward()
    assert torch.isfinite(action.grad).all()
    assert (action.grad.abs().amax((0, 1)) > 0).all()


def test_standardised_inputs_forget_scale_and_offset_of_every_number(small):
    problem, observation = problem_of(small), seen(small)
    encoder = MLPEncoder(problem, 4, 1, standardise=True)
    read = []
    encoder.body[0].register_forward_hook(lambda module, inputs, output: read.append(inputs[0]))
    encoder.calibrate(observation)
    encoder(observation)
    coefficients = read[0][:, : 2 * COEFFICIENTS]
    torch.testing.assert_close(coefficients.mean(0), torch.zeros(2 * COEFFICIENTS), atol=1e-4, rtol=0)
    torch.testing.assert_close(coefficients.std(0), torch.ones(2 * COEFFICIENTS), atol=1e-3, rtol=0)
    assert torch.equal(read[0][:, 2 * COEFFICIENTS :], torch.zeros(6, 5))  # priorities that do not vary


def test_an_agent_standardises_by_its_first_states_and_keeps_that_in_a_checkpoint(tiny, fit):
    given = ("network.kind=mlp", "network.standardise=true", "stages.state=null")
    agent = D2RL(tiny(*given))
    assert torch.equal(agent.aenpnn.encoder.centre, torch.zeros_like(agent.aenpnn.encoder.centre))
    fit(agent)
    for part in (agent.aenpnn.encoder, agent.actor.encoder, agent.critic.transition, agent.renpnn.transition):
        assert part.centre.abs().max() > 0.1
        assert torch.equal(part.spread, agent.aenpnn.encoder.spread)
    other = D2RL(tiny(*given, "seed=9"))
    other.load_state_dict(agent.state_dict())
    assert torch.equal(other.aenpnn.encoder.centre, agent.aenpnn.encoder.centre)

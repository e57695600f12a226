"""The link graph and the transitions of single links: order of users, sizes of cells, who knows of whom."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import problem_of
from torch import Tensor, nn

from d2rl.algorithm.networks import make_encoder, make_transition, make_view
from d2rl.algorithm.networks.link_graph import LinkTransition, MessageLayer
from d2rl.config.defaults import NetworkConfig
from d2rl.problems.base import Observation
from d2rl.problems.full_duplex.observation import observe
from d2rl.wireless import ChannelState

DOWN, UP = (3, 0, 5, 1, 4, 2), (2, 0, 3, 1)
ORDER = [*DOWN, *(6 + k for k in UP)]
HEADS = ["structured", "beamforming"]
CRITICS = ["powers", "numbers"]
CELLS = [
    {"downlink_users": 3, "uplink_users": 5, "transmit_antennas": 4, "receive_antennas": 2},
    {"downlink_users": 1, "uplink_users": 1, "transmit_antennas": 1, "receive_antennas": 1},
    {"downlink_users": 12, "uplink_users": 7, "transmit_antennas": 16, "receive_antennas": 8},
]


def seen(channels: ChannelState, head: str = "structured") -> Observation:
    generator = torch.Generator().manual_seed(0)
    weights = torch.exp(0.5 * torch.randn(channels.batch, channels.links, generator=generator))
    return observe(channels, weights, problem_of(channels, head).layout.numbers)


def reordered(observation: Observation) -> Observation:
    channels = observation.known.channels.permute_users(DOWN, UP)
    return observe(channels, observation.weights[:, ORDER], observation.layout.numbers)


def build_encoder(channels: ChannelState):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_encoder(NetworkConfig(width=16), problem_of(channels))


class Seeing(nn.Module):
    """A transition with its view: what critic and RENPNN make of state and actions."""

    def __init__(self, channels: ChannelState, head: str, critic: str):
        super().__init__()
        config, problem = NetworkConfig(width=16, critic=critic), problem_of(channels, head)
        self.view, size = make_view(config, problem)
        self.transition = make_transition(config, problem, size)

    def forward(self, observation: Observation, action: Tensor) -> Tensor:
        return self.transition(observation, self.view(observation, action))


def build_transition(channels: ChannelState, head: str = "structured", critic: str = "powers") -> Seeing:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Seeing(channels, head, critic)


def draw_actions(channels: ChannelState, head: str, count: int, seed: int = 0) -> Tensor:
    size = problem_of(channels, head).layout.size
    return 2 * torch.rand(channels.batch, count, size, generator=torch.Generator().manual_seed(seed)) - 1


def test_a_message_layer_is_its_formula():
    """h_i + relu(W [h_i, K^-1/2 sum_j relu(A h_i + B h_j + C e_ij)]), link by link in double precision."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = MessageLayer(4, 3).double()
        nodes, edges = torch.randn(2, 5, 4).double(), torch.randn(2, 5, 5, 3).double()
    receiver, sender = layer.ends.weight.chunk(2)
    receiver_bias, sender_bias = layer.ends.bias.chunk(2)
    found = layer(nodes, edges)
    for b in range(2):
        for i in range(5):
            gathered = torch.zeros(4).double()
            for j in range(5):
                message = receiver @ nodes[b, i] + receiver_bias + sender @ nodes[b, j] + sender_bias
                gathered = gathered + (message + layer.edge.weight @ edges[b, i, j]).clamp_min(0) / 5**0.5
            update = layer.update.weight @ torch.cat([nodes[b, i], gathered]) + layer.update.bias
            torch.testing.assert_close(found[b, i], nodes[b, i] + update.clamp_min(0))


def test_encoder_follows_the_order_of_users(channels):
    observation, encoder = seen(channels), build_encoder(channels)
    before, after = encoder(observation), encoder(reordered(observation))
    assert before.shape == (16, 10, 16)
    torch.testing.assert_close(after, before[:, ORDER], rtol=0, atol=1e-4)
    assert (after - before).abs().max() > 0.01


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("head", HEADS)
def test_transition_follows_the_order_of_users(channels, critic, head):
    observation, transition = seen(channels, head), build_transition(channels, head, critic)
    layout, action = observation.layout, draw_actions(channels, head, 3)
    permuted = layout.to_flat(layout.to_entities(action)[:, :, ORDER])
    before, after = transition(observation, action), transition(reordered(observation), permuted)
    assert before.shape == (16, 3, 10, 16)
    torch.testing.assert_close(after, before[:, :, ORDER], rtol=0, atol=1e-3)
    assert (transition(reordered(observation), action) - after).abs().max() > 0.01


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(map(str, cell.values())))
@pytest.mark.parametrize("critic", CRITICS)
def test_the_same_weights_serve_any_number_of_users_and_antennas(channels, make_channels, critic, cell):
    other = make_channels(4, **cell)
    encoder, transition = build_encoder(channels), build_transition(channels, critic=critic)
    for trained, fresh in ((encoder, build_encoder(other)), (transition, build_transition(other, critic=critic))):
        fresh.load_state_dict(trained.state_dict())
    observation = seen(other)
    embedding = encoder(observation)
    assert embedding.shape == (4, other.links, 16)
    assert torch.isfinite(embedding).all()
    embedding = transition(observation, draw_actions(other, "structured", 2))
    assert embedding.shape == (4, 2, other.links, 16)
    assert torch.isfinite(embedding).all()


def test_a_state_is_embedded_alone(channels):
    observation, encoder = seen(channels), build_encoder(channels)
    torch.testing.assert_close(encoder(observation)[5:7], encoder(observation[5:7]), rtol=0, atol=1e-4)


def test_links_learn_of_each_other(channels):
    """A change of one user's channel reaches every other link, and so does another weight."""
    encoder, before = build_encoder(channels), seen(channels)
    louder = channels.downlink.clone()
    louder[:, 2] *= 3
    after = observe(dataclasses.replace(channels, downlink=louder), before.weights)
    assert ((encoder(after) - encoder(before)).abs().amax((0, -1)) > 1e-4).all()
    weights = before.weights.clone()
    weights[:, 7] *= 4
    after = observe(channels, weights)
    assert ((encoder(after) - encoder(before)).abs().amax((0, -1)) > 1e-4).all()


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("head", HEADS)
def test_candidates_are_embedded_as_if_each_were_alone(channels, critic, head):
    observation, transition = seen(channels, head), build_transition(channels, head, critic)
    action = draw_actions(channels, head, 4)
    together = transition(observation, action)
    for m in range(4):
        torch.testing.assert_close(
            together[:, m], transition(observation, action[:, m : m + 1])[:, 0], rtol=0, atol=1e-4
        )
    assert together.std(dim=1).mean() > 1e-3


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("where", ["inside", "zero", "corner"])
def test_gradient_of_every_number_of_an_action_is_finite_and_reaches_it(channels, critic, head, where):
    observation, transition = seen(channels, head), build_transition(channels, head, critic)
    action = draw_actions(channels, head, 2)
    action = {"inside": action, "zero": 0 * action, "corner": action.sign()}[where].requires_grad_()
    transition(observation, action).sum().backward()
    assert torch.isfinite(action.grad).all()
    if where == "inside":
        assert (action.grad.abs().amax((0, 1)) > 0).all()
    if not (where == "zero" and head == "beamforming" and critic == "powers"):  # there no beam has a direction
        assert action.grad.abs().max() > 1e-3


def test_a_link_of_powers_knows_itself_and_the_average_link(channels):
    """Two layers, link by link in double precision."""
    observation, view = seen(channels), torch.randn(16, 3, 10, 2, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transition = LinkTransition(problem_of(channels).sizes, 2, 16)
    found = transition(observation, view)
    assert found.shape == (16, 3, 10, 16)
    exact = {name: p.detach().double() for name, p in transition.named_parameters()}
    for b, m in ((0, 0), (7, 2)):
        links = torch.stack(
            [
                exact["state.weight"] @ observation.nodes[b, k].double()
                + exact["state.bias"]
                + exact["view.weight"] @ view[b, m, k].double()
                for k in range(10)
            ]
        ).clamp_min(0)
        for k in range(10):
            own = exact["hidden.weight"] @ links[k] + exact["hidden.bias"] + exact["mean.weight"] @ links.mean(0)
            torch.testing.assert_close(found[b, m, k].double(), own.clamp_min(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("critic", CRITICS)
def test_a_link_learns_what_happens_to_others(channels, critic):
    """A change of what one link sees of an action reaches every other link."""
    observation, transition = seen(channels), build_transition(channels, critic=critic)
    view = transition.view(observation, draw_actions(channels, "structured", 2))
    changed = view.clone()
    changed[:, :, 2] += 1
    difference = transition.transition(observation, changed) - transition.transition(observation, view)
    assert (difference.abs().amax((0, 1, 3)) > 1e-4).all()
    alone = build_transition(channels, critic=critic).transition
    with torch.no_grad():
        if critic == "powers":
            alone.mean.weight.zero_()
        else:
            for layer in alone.layers:
                layer.ends.weight[16:].zero_()  # of the sender
    difference = alone(observation, changed) - alone(observation, view)
    others = [k for k in range(10) if k != 2]
    assert torch.equal(difference[:, :, others], torch.zeros(16, 2, 9, 16))
    assert difference[:, :, 2].abs().max() > 1e-3


def test_messages_of_several_candidates_share_the_edges(channels):
    """One set of edges for all candidates of a state, against edges of their own."""
    observation, layer = seen(channels), build_encoder(channels).layers[0]
    nodes = torch.randn(16, 3, 10, 16, generator=torch.Generator().manual_seed(0))
    shared = layer(nodes, observation.edges.unsqueeze(1))
    assert shared.shape == nodes.shape
    for m in range(3):
        torch.testing.assert_close(shared[:, m], layer(nodes[:, m], observation.edges))


@pytest.mark.parametrize("critic", CRITICS)
def test_low_precision_rounds_and_no_more(channels, critic):
    """Under bf16 the layers are rounded; channel algebra, which spans 70 dB of SINR, keeps its precision."""
    observation, transition = seen(channels), build_transition(channels, critic=critic)
    action = draw_actions(channels, "structured", 2)
    exact = transition(observation, action)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = transition(observation, action.bfloat16()).float()
        full_action = transition(observation, action).float()
    assert (full_action - exact).abs().max() < 0.03 * exact.abs().max()
    assert (full_action - exact).abs().max() > 0
    assert torch.isfinite(rounded).all()

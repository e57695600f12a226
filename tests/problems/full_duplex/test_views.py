"""What critics see of actions: the powers that they bring about, or their numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import problem_of
from torch import Tensor

from d2rl.algorithm.networks import make_view
from d2rl.config.defaults import NetworkConfig
from d2rl.problems.base import Observation
from d2rl.problems.full_duplex.observation import observe
from d2rl.problems.full_duplex.problem import FullDuplexProblem
from d2rl.wireless import ChannelState, link_rates
from d2rl.wireless.propagation import DECADES

DOWN, UP = (3, 0, 5, 1, 4, 2), (2, 0, 3, 1)
ORDER = [*DOWN, *(6 + k for k in UP)]
HEADS = ["structured", "beamforming"]
VIEWS = ["powers", "numbers"]
UNEVEN = {"downlink_users": 3, "uplink_users": 5, "transmit_antennas": 4, "receive_antennas": 6}


def log_gain(power: float) -> float:
    return math.log10(1 + power) / DECADES


def seen(channels: ChannelState, head: str = "structured") -> Observation:
    draw = torch.randn(channels.batch, channels.links, generator=torch.Generator().manual_seed(0))
    return observe(channels, torch.exp(0.5 * draw), problem_of(channels, head).layout.numbers)


class View:
    """What a critic sees of actions of a problem."""

    def __init__(self, problem: FullDuplexProblem, kind: str):
        self.head, (self.view, self.size) = problem.head, make_view(NetworkConfig(critic=kind), problem)

    def __call__(self, observation: Observation, *action_and_decision) -> Tensor:
        return self.view(observation, *action_and_decision)


def build(channels: ChannelState, kind: str = "powers", head: str = "structured") -> View:
    return View(problem_of(channels, head), kind)


def draw_actions(channels: ChannelState, count: int, head: str = "structured", seed: int = 0) -> Tensor:
    size = problem_of(channels, head).layout.size
    return 2 * torch.rand(channels.batch, count, size, generator=torch.Generator().manual_seed(seed)) - 1


def powers(channels: ChannelState, precoder: Tensor, power: Tensor, b: int) -> list[tuple[float, float]]:
    """Signal and interference of every link of state b in double precision, with the MMSE combiner of each user."""
    g, h, f, h_s = (tensor[b].to(torch.complex128).numpy() for tensor in channels.tensors().values())
    w, p, found = precoder[b].to(torch.complex128).numpy(), power[b].double().numpy(), []
    for j, own in enumerate(g):
        received = np.abs(own.conj() @ w) ** 2
        found.append((received[j], received.sum() - received[j] + (p * np.abs(f[:, j]) ** 2).sum()))
    leakage = h_s @ w
    for k, own in enumerate(h):
        others = np.eye(len(own)) + leakage @ leakage.conj().T
        others = others + sum(p[i] * np.outer(h[i], h[i].conj()) for i in range(len(h)) if i != k)
        combiner = np.linalg.solve(others, own)
        combiner = combiner * np.linalg.norm(own) / abs(np.vdot(combiner, own))  # of gain ||h||
        unwanted = np.vdot(combiner, others @ combiner).real
        found.append((p[k] * np.linalg.norm(own) ** 2, unwanted - 1))
    return found


# ------------------------------------------------------------------ decisions


@pytest.mark.parametrize("head", [*HEADS, "switching"])
def test_links_of_weight_0_are_silent_and_nothing_else_changes(channels, head):
    weights = torch.ones(channels.batch, channels.links)
    weights[::2, [1, 4, 7]] = 0.0
    weights[1::2, :6] = 0.0
    action, wanted = draw_actions(channels, 3, head), (weights > 0).repeat_interleave(3, dim=0)
    for asked in (weights, torch.ones_like(weights)):
        problem = problem_of(channels, head)
        seen = observe(channels, asked, problem.layout.numbers)
        precoder, power = problem.decode(seen, action)
        rates = (link_rates(channels.repeat(3), precoder, power) * wanted).sum(-1)
        if asked is weights:
            silenced, reached = (precoder, power), rates
    assert torch.equal(silenced[0], precoder * wanted[:, None, :6])
    assert torch.equal(silenced[1], power * wanted[:, 6:])
    assert bool((reached > rates - 1e-3).all())  # the others are rid of a disturbance
    assert reached.mean() > rates.mean() + 0.1


# ------------------------------------------------------------------ definitions


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cell", [{}, UNEVEN, {"self_interference": -60.0}], ids=["default", "uneven", "loud SI"])
def test_a_view_of_powers_is_its_definition(make_channels, cell, head):
    """Log signal, and log interference plus noise as the link's own combiner lets it in."""
    channels = make_channels(4, **cell)
    action, view = draw_actions(channels, 2, head), build(channels, "powers", head)
    found = view(seen(channels, head), action)
    assert found.shape == (4, 2, channels.links, view.size)
    for m in range(2):
        decision = view.head.decode(channels, action[:, m])
        for b in range(4):
            for link, (signal, interference) in enumerate(powers(channels, *decision, b)):
                assert found[b, m, link].tolist() == pytest.approx([log_gain(signal), log_gain(interference)], abs=5e-4)


def test_rates_can_be_read_off_the_powers(channels):
    """Signal over interference plus noise is the SINR of every link, uplink with MMSE combining."""
    view, action = build(channels), draw_actions(channels, 3)
    signal, interference = (10 ** (DECADES * view(seen(channels), action).double()) - 1).unbind(-1)
    for m in range(3):
        rates = link_rates(channels, *view.head.decode(channels, action[:, m]))
        found = torch.log2(1 + signal[:, m] / (1 + interference[:, m]))
        torch.testing.assert_close(found, rates.double(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("head", HEADS)
def test_a_view_of_numbers_holds_each_link_s_own_numbers_by_direction(channels, head):
    action, view = draw_actions(channels, 3, head), build(channels, "numbers", head)
    layout, found = view.head.layout, view(seen(channels, head), action)
    assert found.shape == (16, 3, 10, view.size)
    down, up = layout.split(action, 6)
    width = max(layout.down, layout.up)
    assert torch.equal(found[:, :, :6, : layout.down], down)
    assert torch.equal(found[:, :, 6:, width : width + layout.up], up)
    torch.testing.assert_close(found.abs().sum(), action.abs().sum(), rtol=1e-5, atol=0)  # and nothing else


# ------------------------------------------------------------------ invariances


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("head", HEADS)
def test_views_follow_the_order_of_users(channels, kind, head):
    observation, view, action = seen(channels, head), build(channels, kind, head), draw_actions(channels, 2, head)
    layout = observation.layout
    permuted = layout.to_flat(layout.to_entities(action)[:, :, ORDER])
    before = view(observation, action)
    other = observe(channels.permute_users(DOWN, UP), observation.weights[:, ORDER], layout.numbers)
    torch.testing.assert_close(view(other, permuted), before[:, :, ORDER], rtol=0, atol=1e-3)
    assert (view(other, action) - before[:, :, ORDER]).abs().max() > 0.01


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("head", HEADS)
def test_candidates_are_seen_as_if_each_were_alone(channels, kind, head):
    observation, view, action = seen(channels, head), build(channels, kind, head), draw_actions(channels, 4, head)
    together = view(observation, action)
    for m in range(4):
        torch.testing.assert_close(together[:, m], view(observation, action[:, m : m + 1])[:, 0], rtol=0, atol=1e-4)
    assert together.std(dim=1).mean() > 1e-2
    torch.testing.assert_close(together[5:7], view(observation[5:7], action[5:7]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_a_decision_at_hand_is_not_made_again(channels, head):
    observation, view, action = seen(channels, head), build(channels, "powers", head), draw_actions(channels, 3, head)
    problem = problem_of(channels, head)
    decision = problem.decode(observation, action)
    expected, problem.head = view(observation, action), None
    assert torch.equal(problem.view(observation, action, decision), expected)
    swapped = tuple(part.unflatten(0, (16, 3)).flip(1).flatten(0, 1) for part in decision)
    torch.testing.assert_close(problem.view(observation, action, swapped), expected.flip(1), rtol=0, atol=1e-4)
    numbers = build(channels, "numbers", head)
    assert torch.equal(numbers(observation, action, decision), numbers(observation, action))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("head", HEADS)
def test_decisions_of_a_state_stand_side_by_side(channels, head, count):
    problem, action = problem_of(channels, head), draw_actions(channels, count, head)
    precoder, power = problem.decode(seen(channels, head), action)
    assert precoder.shape == (16 * count, 8, 6)
    assert power.shape == (16 * count, 4)
    for m in range(count):
        alone = problem.head.decode(channels, action[:, m])
        found = link_rates(channels, precoder[m::count], power[m::count])
        torch.testing.assert_close(found, link_rates(channels, *alone), rtol=0, atol=5e-3)


# ------------------------------------------------------------------ gradients and precision


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("where", ["inside", "zero", "corner"])
def test_gradient_of_every_number_of_an_action_is_finite_and_reaches_it(channels, kind, head, where):
    view, action = build(channels, kind, head), draw_actions(channels, 2, head)
    action = {"inside": action, "zero": 0 * action, "corner": action.sign()}[where].requires_grad_()
    found = view(seen(channels, head), action)
    assert torch.isfinite(found).all()
    (found * torch.linspace(1, 2, view.size)).sum().backward()
    assert torch.isfinite(action.grad).all()
    if where == "inside":
        assert (action.grad.abs().amax((0, 1)) > 0).all()
    if not (where == "zero" and head == "beamforming" and kind == "powers"):  # there no beam has a direction
        assert action.grad.abs().max() > 1e-3


@pytest.mark.parametrize("head", HEADS)
def test_the_gradient_points_uphill(channels, head):
    """Against central differences of the view itself in its own precision."""
    observation, view = seen(channels, head), build(channels, "powers", head)
    action = (0.5 * draw_actions(channels, 1, head)).requires_grad_()
    view(observation, action).sum().backward()
    direction = action.grad / action.grad.flatten(1).norm(dim=1)[:, None, None]
    with torch.no_grad():
        ahead, behind = (view(observation, action + sign * 0.01 * direction) for sign in (1, -1))
    slope = (ahead - behind).sum((1, 2, 3)) / 0.02
    torch.testing.assert_close(slope, action.grad.flatten(1).norm(dim=1), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("silent", ["downlink", "uplink", "cross", "self_interference", "all"])
def test_a_link_that_hears_nothing_has_a_finite_view(channels, head, silent):
    quiet = {n: 0 * t if silent in (n, "all") else t for n, t in channels.tensors().items()}
    observation, view = seen(ChannelState(**quiet), head), build(channels, "powers", head)
    action = draw_actions(channels, 2, head)
    action[:, 1] = -1  # with the beamforming head: no uplink power at all
    found = view(observation, action.requires_grad_())
    assert torch.isfinite(found).all()
    assert (found >= -1e-6).all()
    if silent == "all":
        assert found.abs().max() < 1e-6
    found.sum().backward()
    assert torch.isfinite(action.grad).all()


@pytest.mark.parametrize("head", HEADS)
def test_low_precision_leaves_channel_algebra_alone(channels, head):
    """Powers span more than 70 dB, so a view under bf16 is the view, of an action that may be rounded."""
    observation, view, action = seen(channels, head), build(channels, "powers", head), draw_actions(channels, 2, head)
    rounded = action.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under, low = view(observation, action), view(observation, rounded)
    assert under.dtype == low.dtype == torch.float32
    assert torch.equal(under, view(observation, action))
    assert torch.equal(low, view(observation, rounded.float()))

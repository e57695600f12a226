"""RENPNN on sums: rewards of links are found from what windows add up to, with a spread that says how sure they are."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import Tensor

from d2rl.algorithm.explorers import SplitRENPNN
from d2rl.algorithm.explorers.split import adding_up
from d2rl.algorithm.networks.link_graph import LinkTransition
from d2rl.problems.base import Layout, Observation, Sizes

WINDOWS, SLOTS, LINKS = 200, 4, 3
SIZES = Sizes(nodes=2, edges=0, view=1, flat=0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def world(noise: float, seed: int, weighted: bool = False) -> tuple[Observation, Tensor, Tensor]:
    """States, views, and rewards [W n, 1, K] that depend on a link's own numbers and on luck."""
    generator = seeded(seed)
    nodes = torch.rand(WINDOWS * SLOTS, LINKS, 2, generator=generator) * 2 - 1
    view = torch.rand(WINDOWS * SLOTS, 1, LINKS, 1, generator=generator) * 2 - 1
    luck = torch.randn(WINDOWS * SLOTS, 1, LINKS, generator=generator)
    reward = 3 * nodes[..., 0].unsqueeze(1) + 2 * view[..., 0].abs() - 5 + noise * luck
    weights = torch.ones(len(nodes), LINKS)
    if weighted:  # in a fifth of the cases nobody asks for a link
        weights = (torch.rand(len(nodes), LINKS, generator=generator) * 2.5 - 0.5).clamp_min(0)
    baseline = torch.ones(len(nodes), LINKS)
    return Observation(nodes, nodes.unsqueeze(1), weights, baseline, None, Layout((LINKS,), (1,))), view, reward


def sums(observation: Observation, reward: Tensor) -> Tensor:
    return (reward * observation.weights.unsqueeze(1)).sum(-1).unflatten(0, (WINDOWS, SLOTS)).sum(1)


@cache
def trained(noise: float, regresses: bool = False, weighted: bool = False) -> SplitRENPNN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transition = LinkTransition(SIZES, 2, 16, alone=True)  # of the view and the baseline
        explorer = SplitRENPNN(transition, 16, 6, True, rate=1e-2, regresses=regresses)
    observation, view, reward = world(noise, 1, weighted)
    total, generator, optimizer = sums(observation, reward), seeded(2), explorer.configure_optimizers()
    explorer.calibrate(total / (SLOTS * LINKS))
    rows = torch.arange(WINDOWS * SLOTS).unflatten(0, (WINDOWS, SLOTS))
    for _ in range(400):
        chosen = torch.randint(WINDOWS, (32,), generator=generator)
        slots = rows[chosen].flatten()
        loss, _ = explorer.loss_of_sums(observation[slots], view[slots], total[chosen], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return explorer


@pytest.mark.parametrize(
    ("regresses", "weighted"),
    [(False, False), (True, False), (False, True)],
    ids=["renpnn", "regression", "weighted sums"],
)
def test_rewards_of_links_are_found_from_sums_of_windows(regresses, weighted):
    """On other states: the error is small beside what rewards of links and slots differ by."""
    explorer = trained(0.0, regresses, weighted)
    observation, view, reward = world(0.0, 3)
    with torch.no_grad():
        made = explorer.generate(observation, view, 4, seeded(4))
    assert made.shape == reward.shape
    assert (made - reward).square().mean() < 0.05 * reward.var()


@pytest.mark.parametrize("regresses", [False, True], ids=["renpnn", "regression"])
def test_intervals_hold_what_they_promise(regresses):
    """Rewards with luck of deviation 1: of 100 draws, the middle 80 hold the true reward in about 80 % of all cases."""
    explorer = trained(1.0, regresses)
    observation, view, reward = world(1.0, 3)
    with torch.no_grad():
        drawn = explorer.draw(observation, view, 100, seeded(9))
    low, high = torch.quantile(drawn, torch.tensor([0.1, 0.9]), dim=2)
    assert ((reward > low) & (reward < high)).float().mean() == pytest.approx(0.8, abs=0.1)


def test_the_worst_part_of_the_draws_is_below_their_mean_where_asked_for():
    explorer, (observation, view, _) = deepcopy(trained(1.0)), world(1.0, 3)
    with torch.no_grad():
        mean = explorer.generate(observation, view, 16, seeded(5))
        explorer.risk = "cvar"
        worst = explorer.generate(observation, view, 16, seeded(5))
    assert (worst.sum(-1) < mean.sum(-1)).float().mean() > 0.9


def test_the_spread_of_rewards_without_luck_is_smaller():
    spreads = []
    for noise in (0.0, 1.0):
        explorer, (observation, view, _) = trained(noise), world(noise, 3)
        with torch.no_grad():
            spreads.append(explorer.draw(observation, view, 20, seeded(9)).std(2).mean())
    assert spreads[0] < 0.6 * spreads[1]


def test_draws_add_up_and_the_doubtful_give_way():
    generator = seeded()
    noise, deviation = (torch.rand(10, 1, 3, generator=generator) + 0.1 for _ in range(2))
    total = torch.tensor([[7.0], [-2.0]])
    made = adding_up(noise, deviation, total)
    torch.testing.assert_close((deviation * made).sum(-1).unflatten(0, (2, 5)).sum(1), total)
    moved = (made - noise) / deviation
    for window in moved.unflatten(0, (2, 5)):
        torch.testing.assert_close(window, window.mean().expand_as(window))

"""The control of RENPNN: the mean and the spread of measured rewards, by regression."""

from __future__ import annotations

import pytest
import torch

from d2rl.algorithm.explorers import RegressedRewards
from d2rl.algorithm.networks.link_graph import LinkTransition
from d2rl.problems.base import Layout, Observation, Sizes

STATES, LINKS, NOISE = 2000, 3, 0.5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def world(seed: int) -> tuple[Observation, torch.Tensor, torch.Tensor]:
    """States, views and means [B, 1, K] of rewards that are noisy where the second number of a link is positive."""
    generator = seeded(seed)
    nodes = torch.rand(STATES, LINKS, 2, generator=generator) * 2 - 1
    view = torch.rand(STATES, 1, LINKS, 1, generator=generator) * 2 - 1
    weights = torch.ones(STATES, LINKS)
    observation = Observation(nodes, nodes.unsqueeze(1), weights, weights, None, Layout((LINKS,), (1,)))
    return observation, view, 3 * nodes[..., 1].unsqueeze(1) + 2 * view[..., 0].abs() - 5


def noisy(observation: Observation) -> torch.Tensor:
    return (observation.nodes[..., 1] > 0).unsqueeze(1)


@pytest.fixture(scope="module")
def trained() -> RegressedRewards:
    """Learned from the first half of the states; the rewards of the others are wrong, and said to be not measured."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        explorer = RegressedRewards(LinkTransition(Sizes(nodes=2, edges=0, view=1, flat=0), 1, 16), 16, 6, True)
    observation, view, mean = world(1)
    measured = torch.arange(STATES) < STATES // 2
    reward = mean + NOISE * noisy(observation) * torch.randn(mean.shape, generator=seeded(2))
    reward = torch.where(measured[:, None, None], reward, 100.0)
    explorer.calibrate(reward[measured])
    optimizer, generator = explorer.configure_optimizers(), seeded(3)
    for _ in range(600):
        rows = torch.randint(STATES, (128,), generator=generator)
        loss, _ = explorer.loss(observation[rows], view[rows], reward[rows], generator, measured[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return explorer


@torch.no_grad()
def test_the_mean_is_that_of_measured_rewards(trained):
    observation, view, mean = world(4)
    made = trained.generate(observation, view, 1, seeded())
    assert made.shape == mean.shape
    assert (made - mean).square().mean() < 0.05 * mean.var()


@torch.no_grad()
def test_draws_spread_as_rewards_do(trained):
    """NOISE where rewards are noisy, and clearly less where they are not."""
    observation, view, mean = world(4)
    spread = (trained.draw(observation, view, 200, seeded()) - mean.unsqueeze(2)).std(2)
    loud = noisy(observation)
    assert spread[loud].mean() == pytest.approx(NOISE, rel=0.3)
    assert spread[~loud].mean() < 0.6 * spread[loud].mean()


@torch.no_grad()
def test_cvar_is_the_mean_of_the_worst_draws(trained):
    """Of a Gaussian's worst quarter the mean lies 1.27 deviations below; links' sums have the root of three of one."""
    observation, view, _ = world(4)
    drawn = trained.draw(observation, view, 400, seeded()).sum(-1)
    trained.risk = "cvar"
    worst = trained.generate(observation, view, 400, seeded()).sum(-1)
    trained.risk = "mean"
    expected = drawn.mean(-1) - 1.27 * drawn.std(-1)
    assert (worst - expected).abs().mean() < 0.1 * drawn.std(-1).mean()

"""Straight paths between actions and noise, and pairs of the two."""

from __future__ import annotations

import pytest
import torch

from d2rl.algorithm.straight_path import StraightPath, nearest_pairs, paired, redraw
from d2rl.problems.base import Layout


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_path_ends_at_the_noise_and_follows_the_true_velocity_back():
    path, generator = StraightPath(2), seeded()
    clean, noise = (torch.randn((4, 3, 1, 2), generator=generator) for _ in range(2))
    at = path.corrupt(clean, torch.tensor([[0, 1, 2]]).expand(4, -1), noise)
    torch.testing.assert_close(at[:, 0], clean[:, 0])
    torch.testing.assert_close(at[:, 1], (clean[:, 1] + noise[:, 1]) / 2)
    torch.testing.assert_close(at[:, 2], noise[:, 2])
    torch.testing.assert_close(path.corrupt(clean, 1, noise), (clean + noise) / 2)
    torch.testing.assert_close(path.reverse(lambda x, p: clean, None, noises=noise[None]), clean)
    halfway = path.reverse(lambda x, p: clean, None, noises=noise[None], stop=1)
    torch.testing.assert_close(halfway, noise + (clean - noise) / 2)  # one step of the velocity, clean - noise


@pytest.mark.parametrize("steps", [1, 3, 100])
def test_steps_along_the_ideal_velocity_carry_gaussian_noise_to_gaussian_data(steps):
    """x_0 = 3 + 0.5 noise: the estimate of x_0 from x_p is exact where the two are paired, for any P."""
    path, noise = StraightPath(steps), torch.randn((1, 500), generator=seeded())

    def estimate(x, p):
        share = p / steps
        return 3 + 0.5 * (x - 3 * (1 - share)) / (0.5 * (1 - share) + share)

    torch.testing.assert_close(path.reverse(estimate, None, noises=noise), 3 + 0.5 * noise[0], atol=1e-4, rtol=0)


def test_each_candidate_is_drawn_by_its_weight_to_within_one():
    weights = torch.softmax(2 * torch.randn(200, 16, generator=seeded()), -1)
    counts = torch.nn.functional.one_hot(redraw(weights, seeded(1)), 16).sum(1)
    assert (counts.sum(-1) == 16).all()
    assert ((counts - 16 * weights).abs() < 1 + 1e-4).all()
    torch.testing.assert_close(counts.double().mean(0) / 16, weights.double().mean(0), atol=0.01, rtol=0)
    certain = torch.nn.functional.one_hot(torch.tensor([0, 9, 15]), 16).float()
    assert redraw(certain, seeded()).tolist() == [[0] * 16, [9] * 16, [15] * 16]


def test_pairs_are_one_to_one_and_the_nearest_first():
    first = torch.tensor([[[0.0], [1.0], [5.0]]])
    assert nearest_pairs(first, torch.tensor([[[5.1], [0.2], [0.9]]])).tolist() == [[1, 2, 0]]
    assert nearest_pairs(first, torch.tensor([[[0.9], [0.95], [7.0]]])).tolist() == [[0, 1, 2]]


def test_noise_of_pairs_is_normal_and_near_actions_of_good_weight():
    """Numbers that an entity has not are noise of no consequence."""
    layout = Layout((2, 1), (2, 1))
    action = 2 * torch.rand((300, 16, layout.size), generator=seeded()) - 1
    good = action[..., 0] > 0
    weights = good / good.sum(-1, keepdim=True).clamp_min(1)
    usable = good.any(-1)
    drawn, noise = paired(layout, action, weights, seeded(1))
    assert noise.shape == (300, 16, 3, 2)
    assert (drawn[usable][..., 0] > 0).all()
    assert noise.mean().abs() < 0.02
    assert (noise.std() - 1).abs() < 0.02
    flat = layout.to_flat(noise)
    near, other = ((flat - one).square().sum(-1).mean() for one in (drawn, drawn.roll(1, 1)))
    assert near < 0.75 * other

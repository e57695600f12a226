"""Drops around the surface: seeded, with the gains that path loss and fading say."""

from __future__ import annotations

import math

import pytest
import torch

from d2rl.problems.ris.settings import RisConfig
from d2rl.problems.ris.simulator import drop
from d2rl.wireless.link_rates import squared_magnitude


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_seed_decides_everything():
    config = RisConfig(priority_user=0.3)
    first, again, other = (drop(config, 4, seeded(seed)).tensors() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["channels.direct"], other["channels.direct"])


def test_shapes_follow_the_settings():
    state = drop(RisConfig(antennas=3, elements=5, users=2), 4, seeded())
    assert {name: tuple(tensor.shape) for name, tensor in state.tensors().items()} == {
        "channels.direct": (4, 2, 3),
        "channels.feed": (4, 5, 3),
        "channels.reflected": (4, 2, 5),
        "weights": (4, 7),
    }


def test_elements_have_no_weight_and_users_a_log_normal_one():
    weights = drop(RisConfig(priority_user=0.5, users=8), 500, seeded()).weights
    assert bool((weights[:, 8:] == 0).all())
    logs = weights[:, :8].log()
    assert float(logs.std()) == pytest.approx(0.5, rel=0.05)
    assert float(logs.mean()) == pytest.approx(0, abs=0.03)
    assert bool((drop(RisConfig(), 4, seeded()).weights[:, :4] == 1).all())


def test_a_blocked_path_loses_what_blocking_says_and_nothing_else():
    free, blocked = (drop(RisConfig(blocking=p, blocking_loss=20.0), 16, seeded()).channels for p in (0.0, 1.0))
    assert torch.allclose(blocked.direct, free.direct / 10)
    assert torch.equal(blocked.feed, free.feed)
    assert torch.equal(blocked.reflected, free.reflected)
    some = drop(RisConfig(blocking=0.3, blocking_loss=20.0), 500, seeded()).channels.direct
    whole = drop(RisConfig(blocking=0.0), 500, seeded()).channels.direct
    lost = (squared_magnitude(some / whole).mean(-1) < 0.5).float().mean()
    assert float(lost) == pytest.approx(0.3, abs=0.05)


def test_the_feed_has_the_gain_of_the_link_budget():
    config = RisConfig(surface_distance=100.0, bs_power=20.0, bandwidth=1.0, noise_figure=6.0)
    found = squared_magnitude(drop(config, 200, seeded()).channels.feed).mean()
    decibel = 20.0 - (-174.0 + 60.0 + 6.0) - (103.8 + 20.9 * math.log10(0.1))
    assert 10 * math.log10(float(found)) == pytest.approx(decibel, abs=0.3)


def test_gains_of_the_last_hop_lie_between_those_of_its_smallest_and_largest_distance():
    config = RisConfig(user_rician=100.0, minimum_distance=4.0, user_radius=20.0)
    gain = -10 * torch.log10(squared_magnitude(drop(config, 100, seeded()).channels.reflected))
    near, far = (103.8 + 20.9 * math.log10(d / 1000) for d in (4.0, 20.0))
    assert near - 0.01 <= float(gain.min()) < near + 1.5
    assert far - 1.0 < float(gain.max()) <= far + 0.01


def test_a_pure_line_of_sight_to_the_surface_has_rank_one():
    feed = drop(RisConfig(surface_rician=100.0), 3, seeded()).channels.feed
    values = torch.linalg.svdvals(feed)
    assert bool((values[:, 1] < 1e-3 * values[:, 0]).all())
    assert float(torch.linalg.matrix_rank(drop(RisConfig(), 1, seeded()).channels.feed)) == 8

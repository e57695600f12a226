"""The bound without interference: water-filling against bisection, and no decision above it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from d2rl.wireless import full_uplink_power, link_rates, random_decision, rzf, wmmse
from d2rl.wireless.bounds import interference_free_rates, water_filling


def filled_by_bisection(gain: list[float], weights: list[float]) -> list[float]:
    """Shares (a mu - 1/g)+ with the level mu found by bisection in double precision."""

    def shares(level: float) -> list[float]:
        return [max(0.0, a * level - 1 / g) for g, a in zip(gain, weights, strict=True)]

    low, high = 0.0, 1e12
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(shares(middle)) < 1 else (low, middle)
    return shares(high)


def draw(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gain = 10 ** (6 * torch.rand(50, 6, generator=generator, dtype=torch.float64) - 3)
    return gain, torch.exp(torch.randn(50, 6, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("weighted", [False, True])
def test_water_filling_is_the_level_that_uses_all_power(weighted):
    gain, weights = draw(0)
    if not weighted:
        weights = torch.ones_like(gain)
    found = water_filling(gain, weights) if weighted else water_filling(gain)
    assert torch.allclose(found.sum(-1), torch.ones(50, dtype=torch.float64))
    assert bool((found >= 0).all())
    assert 0 < (found == 0).float().mean() < 1  # some channels are left dry
    for row in range(50):
        expected = filled_by_bisection(gain[row].tolist(), weights[row].tolist())
        assert found[row].tolist() == pytest.approx(expected, abs=1e-6)


def test_no_other_split_has_a_higher_weighted_rate():
    gain, weights = draw(1)

    def rate(share: Tensor) -> Tensor:
        return (weights * torch.log1p(share * gain)).sum(-1)

    others = torch.rand(200, 50, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64) ** 4
    best = rate(water_filling(gain, weights))
    assert bool((rate(others / others.sum(-1, keepdim=True)) <= best + 1e-12).all())
    assert bool((rate(torch.eye(6, dtype=torch.float64)[:, None]) <= best + 1e-12).all())


@pytest.mark.parametrize("gain", [[3.0], [5.0, 5.0, 5.0], [4.0, 0.0, 0.0], [1e8, 1e-8, 1e8]])
def test_water_filling_at_its_limits(gain):
    found = water_filling(torch.tensor([gain]))
    strong = [g == max(gain) for g in gain]
    assert found[0].tolist() == pytest.approx([one / sum(strong) for one in strong], abs=1e-6)


def test_a_link_that_counts_for_nothing_gets_nothing():
    found = water_filling(torch.tensor([[2.0, 9.0, 2.0]]), torch.tensor([[1.0, 0.0, 1.0]]))
    assert found[0].tolist() == pytest.approx([0.5, 0.0, 0.5], abs=1e-6)


def test_single_links_reach_the_capacity_of_their_channel(make_channels):
    channels = make_channels(4, downlink_users=1, uplink_users=1)
    rates = interference_free_rates(channels)
    for state in range(4):
        for link, vector in enumerate((channels.downlink[state, 0], channels.uplink[state, 0])):
            capacity = math.log2(1 + sum(abs(h) ** 2 for h in vector.tolist()))
            assert rates[state, link].item() == pytest.approx(capacity, rel=1e-5)


@pytest.mark.parametrize("self_interference", [-130.0, -70.0])
def test_no_decision_passes_the_bound(make_channels, self_interference):
    channels = make_channels(32, self_interference=self_interference)
    bound = interference_free_rates(channels).sum(-1)
    generator = torch.Generator().manual_seed(0)
    decisions = [random_decision(channels, generator) for _ in range(5)]
    decisions += [(rzf(channels), full_uplink_power(channels)), wmmse(channels, iterations=50, starts=3)]
    for decision in decisions:
        assert bool((link_rates(channels, *decision).sum(-1) < bound).all())


def test_no_decision_passes_the_weighted_bound(make_channels):
    channels = make_channels(16)
    weights = torch.exp(torch.randn(16, 10, generator=torch.Generator().manual_seed(0)))
    bound = (weights * interference_free_rates(channels, weights)).sum(-1)
    reached = (weights * link_rates(channels, *wmmse(channels, 50, weights=weights))).sum(-1)
    assert bool((reached < bound).all())


@pytest.mark.parametrize("favoured", [0, 3, 6, 9])
def test_a_link_that_has_the_cell_to_itself_reaches_the_bound(make_channels, favoured):
    channels = make_channels(16)
    weights, precoder, power = torch.zeros(16, 10), torch.zeros(16, 8, 6, dtype=torch.complex64), torch.zeros(16, 4)
    weights[:, favoured] = 1
    if favoured < 6:
        vector = channels.downlink[:, favoured]
        precoder[:, :, favoured] = vector / vector.norm(dim=-1, keepdim=True)
    else:
        power[:, favoured - 6] = 1
    reached = link_rates(channels, precoder, power)[:, favoured]
    bound = (weights * interference_free_rates(channels, weights)).sum(-1)
    assert torch.allclose(reached, bound, rtol=1e-5)

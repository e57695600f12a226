"""Precoders under a limit on every antenna, against a closed form and the dual bound."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from d2rl.wireless import full_uplink_power, link_rates, rzf, wmmse
from d2rl.wireless.antenna_power import AntennaPrices, within_antenna_power
from d2rl.wireless.fairness import fair_wmmse, improve_by
from d2rl.wireless.objectives import Objective
from d2rl.wireless.wmmse import _power_constrained

SUM = Objective()


def strongest(precoder: Tensor) -> Tensor:
    """Power of the strongest antenna, in equal shares of the whole."""
    return precoder.abs().square().sum(-1).amax(-1) * precoder.shape[-2]


def quadratic_problem(users: int = 6, antennas: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = {"dtype": torch.complex128, "generator": generator}
    rows = torch.randn(16, 20, antennas, **draw) * torch.logspace(-2, 2, 20, dtype=torch.float64)[:, None]
    return rows.mH @ rows, torch.randn(16, antennas, users, **draw) * torch.logspace(-1, 2, users, dtype=torch.float64)


def test_only_what_is_above_the_limit_is_scaled_and_keeps_its_directions(channels):
    precoder = rzf(channels)
    within = within_antenna_power(precoder, 1.2)
    torch.testing.assert_close(strongest(within), strongest(precoder).clamp_max(1.2))
    assert (strongest(precoder) > 1.2).any()
    ratio = within / precoder
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio))


@pytest.mark.parametrize("limit", [1.0, 2.0])
def test_prices_lead_to_the_dual_bound(limit):
    """tr(W^H A W) - 2 Re tr(C^H W) cannot be below -tr(C^H (A + D)^-1 C) minus the prices times their limits."""
    a, c = quadratic_problem()
    prices = AntennaPrices(limit)
    for _ in range(30):
        w = prices(a, c)
    value = (w.conj() * (a @ w - 2 * c)).real.sum((-2, -1))
    sums, antennas = prices.prices[:, :1], prices.prices[:, 1:]
    shifted = a + torch.diag_embed(sums + antennas).to(a.dtype)
    bound = -(c.conj() * torch.linalg.solve(shifted, c)).real.sum((-2, -1))
    bound = bound - sums.squeeze(-1) - antennas.sum(-1) * limit / a.shape[-1]
    assert (value >= bound - 1e-9 * bound.abs()).all()
    assert ((value - bound) / bound.abs()).max() < 5e-3
    assert (strongest(w) <= limit * (1 + 1e-9)).all()
    assert (w.abs().square().sum((-2, -1)) <= 1 + 1e-9).all()


def test_a_limit_that_no_antenna_reaches_changes_nothing():
    a, c = quadratic_problem()
    prices = AntennaPrices(limit=8.0)
    for _ in range(40):
        w = prices(a, c)
    torch.testing.assert_close(w, _power_constrained(a, c), rtol=1e-3, atol=1e-4)


def test_for_one_user_every_antenna_sends_its_share_in_phase(make_channels):
    channels = make_channels(downlink_users=1, uplink_users=0)
    precoder, power = fair_wmmse(channels, torch.ones(16, 1), SUM, 200, antenna_power=1.0)
    reached = link_rates(channels, precoder, power).squeeze(-1)
    expected = torch.log2(1 + channels.downlink.abs().sum((-2, -1)).square() / channels.transmit_antennas)
    torch.testing.assert_close(reached, expected, rtol=0, atol=1e-3)


def test_it_is_never_worse_than_its_start_and_better_than_a_decision_scaled_down(channels):
    weights = torch.ones(16, channels.links)
    start, power = within_antenna_power(rzf(channels), 1.0), full_uplink_power(channels)
    before = link_rates(channels, start, power).sum(-1)
    for iterations in (0, 1, 3):
        decision = improve_by(SUM, channels, start, power, weights, iterations, antenna_power=1.0)
        assert (link_rates(channels, *decision).sum(-1) >= before - 1e-3).all()
        assert (strongest(decision[0]) <= 1 + 1e-5).all()
    scaled, uplink = wmmse(channels, 60)
    scaled = link_rates(channels, within_antenna_power(scaled, 1.0), uplink).sum(-1)
    limited = link_rates(channels, *fair_wmmse(channels, weights, SUM, 60, antenna_power=1.0)).sum(-1)
    assert limited.mean() > scaled.mean() > before.mean()


def test_a_minimum_for_every_link_is_kept_under_the_limit_too(make_channels):
    channels = make_channels(uplink_users=0, path_loss="nlos")
    weights = torch.ones(16, channels.links)
    plain = link_rates(channels, *fair_wmmse(channels, weights, SUM, 60, antenna_power=1.0)).amin(-1)
    objective = replace(SUM, kind="max_min")
    fair = link_rates(channels, *fair_wmmse(channels, weights, objective, 60, antenna_power=1.0)).amin(-1)
    assert fair.mean() > plain.mean() + 0.1

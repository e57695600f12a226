"""Energy efficiency where its optimum is known: one user by Lambert's W, two by a search; and its bound."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from d2rl.wireless import ChannelState, full_uplink_power, link_rates, random_decision, rzf, wmmse
from d2rl.wireless.energy import Consumption, efficiency_bound, efficient_wmmse

CELL = Consumption(base_station=1.0, user=0.2, circuits=0.5, bandwidth=10.0)


def efficiency(channels: ChannelState, decision: tuple[Tensor, Tensor], taken: Consumption = CELL) -> Tensor:
    """Mbit/J of equal weights, [B]."""
    rates = link_rates(channels, *decision).double().sum(-1)
    return taken.bandwidth * rates / taken.of(*decision).double()


def found(channels: ChannelState, taken: Consumption = CELL, iterations: int = 60) -> tuple[Tensor, Tensor]:
    start = rzf(channels), full_uplink_power(channels)
    return efficient_wmmse(channels, *start, torch.ones(channels.batch, channels.links), taken, iterations)


def single(gain: float, downlink: bool = True) -> ChannelState:
    """One user of this power gain at a base station of 4 antennas."""
    beam, none = torch.full((1, 1, 4), gain**0.5 / 2, dtype=torch.complex64), torch.zeros(1, 0, 1).to(torch.complex64)
    if downlink:
        return ChannelState(beam, none, none.new_zeros(1, 0, 1), none.new_zeros(1, 1, 4))
    return ChannelState(none, beam, none.new_zeros(1, 1, 0), none.new_zeros(1, 4, 1))


def best_power(gain: float, watt: float, circuits: float) -> float:
    """Where d/dp log(1 + p g) / (c + p P) = 0: 1 + p g = exp(1 + W((g c / P - 1) / e)), and full power at most."""
    special = pytest.importorskip("scipy.special", reason="Lambert's W; extra `files`")
    inner = float(special.lambertw((gain * circuits / watt - 1) / math.e).real)
    return min(1.0, (math.exp(1 + inner) - 1) / gain)


@pytest.mark.parametrize("gain", [0.3, 30.0, 1e4, 1e7])
@pytest.mark.parametrize("circuits", [0.01, 0.5, 50.0])
@pytest.mark.parametrize("downlink", [True, False])
def test_one_user_gets_the_power_of_the_closed_form(gain, circuits, downlink):
    taken, channels = Consumption(1.0, 0.2, circuits, 10.0), single(gain, downlink)
    precoder, power = found(channels, taken, 200)
    sent = precoder.abs().square().sum() if downlink else power.sum()
    expected = best_power(gain, 1.0 if downlink else 0.2, circuits)
    assert float(sent) == pytest.approx(expected, rel=2e-3)
    highest = 10 * math.log2(1 + expected * gain) / (circuits + expected * (1.0 if downlink else 0.2))
    assert float(efficiency(channels, (precoder, power), taken)) == pytest.approx(highest, rel=1e-5)
    assert float(efficiency_bound(channels, torch.ones(1, 1), taken)) == pytest.approx(highest, rel=1e-5)


def test_users_that_do_not_disturb_each_other_reach_the_bound():
    """Orthogonal channels: nothing is lost to interference, and weak users are left out."""
    gains = torch.tensor([1e4, 300.0, 2e-3])
    downlink = torch.diag_embed(gains.sqrt()).to(torch.complex64).unsqueeze(0)
    empty = downlink.new_zeros
    channels = ChannelState(downlink, empty(1, 0, 1), empty(1, 0, 3), empty(1, 1, 3))
    precoder, power = found(channels, iterations=200)
    bound = efficiency_bound(channels, torch.ones(1, 3), CELL)
    assert float(efficiency(channels, (precoder, power))) == pytest.approx(float(bound), rel=1e-4)
    assert float(precoder[..., 2].abs().square().sum()) < 1e-3
    grid = torch.logspace(-4, 0, 200, dtype=torch.float64)
    first, second = torch.meshgrid(grid, grid, indexing="ij")
    rates = torch.log2(1 + first * gains[0]) + torch.log2(1 + second * gains[1])
    allowed = torch.where(first + second <= 1, rates / (CELL.circuits + first + second), 0)
    assert float(bound) == pytest.approx(10 * float(allowed.max()), rel=1e-3)


@pytest.mark.parametrize("users", [{}, {"uplink_users": 0}, {"downlink_users": 0}], ids=str)
def test_more_efficient_than_what_maximises_the_rate_and_within_limits_and_bound(make_channels, users):
    channels = make_channels(16, **users)
    decision = found(channels)
    precoder, power = decision
    assert (precoder.abs().square().sum((-2, -1)) <= 1 + 1e-5).all()
    assert ((power >= 0) & (power <= 1)).all()
    reached = efficiency(channels, decision)
    bound = efficiency_bound(channels, torch.ones(16, channels.links), CELL)
    assert (reached <= bound * (1 + 1e-5)).all()
    assert (reached > efficiency(channels, wmmse(channels, 100))).all()


def test_no_scaling_of_the_powers_is_more_efficient(channels):
    precoder, power = found(channels, iterations=200)
    reached = efficiency(channels, (precoder, power))
    for down in (0.9, 1.0, 1.1):
        for up in (0.9, 1.0, 1.1):
            scaled = down**0.5 * precoder, (up * power).clamp_max(1)
            assert (efficiency(channels, scaled) <= reached * (1 + 1e-3)).all()


def test_it_only_rises_from_any_start_and_dear_circuits_ask_for_the_rate(channels, generator):
    weights = torch.rand(16, channels.links, generator=generator)
    start = random_decision(channels, generator)
    values = []
    for iterations in (0, 3, 30):
        decision = efficient_wmmse(channels, *start, weights, CELL, iterations)
        rates = link_rates(channels, *decision).double()
        values.append((rates * weights).sum(-1) / CELL.of(*decision).double())
    assert (values[1] >= values[0] * (1 - 1e-5)).all()
    assert (values[2] >= values[1] * (1 - 1e-5)).all()
    decision = found(channels, Consumption(1.0, 0.2, 1e6, 10.0), 200)
    rates = link_rates(channels, *decision).sum(-1)
    assert float(rates.mean()) > 0.98 * float(link_rates(channels, *wmmse(channels, 200)).sum(-1).mean())


def test_a_limit_on_antennas_holds(channels):
    start = rzf(channels), full_uplink_power(channels)
    weights, generous = torch.ones(16, channels.links), Consumption(1.0, 0.2, 100.0, 10.0)
    precoder, _ = efficient_wmmse(channels, *start, weights, generous, 30, antenna_power=1.0)
    per_antenna = precoder.abs().square().sum(-1) * precoder.shape[-2]
    assert (per_antenna <= 1 + 1e-4).all()

"""WMMSE: it rises, respects the limits, solves its sub-problem exactly and refuses what it cannot use."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from d2rl.common.errors import InputError
from d2rl.wireless import ChannelState, full_uplink_power, link_rates, random_decision, rzf, wmmse
from d2rl.wireless.wmmse import _power_constrained, receivers, starting_points, wmmse_iteration


def total_power(precoder: Tensor) -> Tensor:
    return precoder.abs().square().sum((-2, -1))


def sum_rate(channels: ChannelState, decision: tuple[Tensor, Tensor]) -> Tensor:
    return link_rates(channels, *decision).sum(-1)


def without(channels: ChannelState, *names: str) -> ChannelState:
    return dataclasses.replace(channels, **{name: torch.zeros_like(getattr(channels, name)) for name in names})


CELLS = {
    "default": lambda make: make(),
    "non line of sight": lambda make: make(path_loss="nlos"),
    "SI -130 dB": lambda make: make(self_interference=-130.0),
    "SI -40 dB": lambda make: make(self_interference=-40.0),
    "no self-interference": lambda make: without(make(), "self_interference"),
    "users at one spot": lambda make: dataclasses.replace(
        make(), downlink=make().downlink[:, :1].expand(-1, 6, -1), uplink=make().uplink[:, :1].expand(-1, 4, -1)
    ),
    "more users than antennas": lambda make: make(transmit_antennas=3, receive_antennas=2),
    "one user, one antenna": lambda make: make(
        downlink_users=1, uplink_users=1, transmit_antennas=1, receive_antennas=1
    ),
    "no downlink": lambda make: without(make(), "downlink"),
    "no uplink": lambda make: without(make(), "uplink"),
    "nothing at all": lambda make: without(make(), "downlink", "uplink", "cross", "self_interference"),
}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("weighting", ["equal", "log-normal", "uplink only", "none"])
def test_weighted_objective_never_falls_and_the_limits_hold(make_channels, cell, weighting, generator):
    channels = CELLS[cell](make_channels).double()
    weights = torch.ones(16, channels.links, dtype=torch.float64)
    if weighting == "log-normal":
        weights = torch.randn(weights.shape, generator=generator, dtype=torch.float64).exp()
    elif weighting == "uplink only":
        weights[:, : channels.downlink_users] = 0
    elif weighting == "none":
        weights = torch.zeros_like(weights)
    precoder, power = random_decision(channels, generator)
    precoder, amplitude = precoder * (1 - 1e-6), power.sqrt()
    objective = (weights * link_rates(channels, precoder, amplitude.square())).sum(-1)
    start = objective
    for _ in range(30):
        precoder, amplitude = wmmse_iteration(channels, precoder, amplitude, weights)
        assert (total_power(precoder) <= 1 + 1e-12).all()
        assert ((amplitude >= 0) & (amplitude <= 1)).all()
        following = (weights * link_rates(channels, precoder, amplitude.square())).sum(-1)
        assert (following >= objective - 1e-9 * (1 + objective)).all()
        objective = following
    if cell not in ("no downlink", "no uplink", "nothing at all") and weighting in ("equal", "log-normal"):
        assert (objective > start).all()


@pytest.mark.parametrize("starts", [1, 12])
@pytest.mark.parametrize("cell", CELLS)
def test_results_respect_the_power_limits(make_channels, cell, starts):
    channels = CELLS[cell](make_channels)
    precoder, power = wmmse(channels, iterations=3, starts=starts)
    assert precoder.shape == (16, channels.transmit_antennas, channels.downlink_users)
    assert precoder.dtype == torch.complex64
    assert (total_power(precoder) <= 1 + 1e-5).all()
    assert ((power >= 0) & (power <= 1)).all()


def bisection(values: Tensor, energy: Tensor) -> Tensor:
    """mu >= 0 at which sum_i e_i / (lambda_i + mu)^2 = 1, or 0 where the sum is below 1 already."""

    def exceeds(mu: Tensor) -> Tensor:
        return (energy / (values + mu.unsqueeze(-1)).square()).sum(-1) > 1

    low, high = torch.zeros(len(values), dtype=values.dtype), energy.sum(-1).sqrt() + 1
    active = exceeds(low)
    for _ in range(300):
        middle = (low + high) / 2
        low, high = torch.where(exceeds(middle), middle, low), torch.where(exceeds(middle), high, middle)
    return torch.where(active, high, 0.0)


def sub_problem(antennas: int, values: Tensor, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """A and C with given eigenvalues and targets in a random basis, and W by bisection."""
    square = torch.randn(len(values), antennas, antennas, generator=generator, dtype=torch.complex128)
    basis = torch.linalg.qr(square)[0]
    mu = bisection(values, rows.abs().square().sum(-1))
    expected = basis @ (rows / (values + mu.unsqueeze(-1)).unsqueeze(-1))
    return (basis * values.unsqueeze(-2)) @ basis.mH, basis @ rows, expected


@pytest.mark.parametrize(("antennas", "decades"), [(1, 2), (8, 3), (8, 7), (64, 5)])
def test_power_constrained_precoder_agrees_with_bisection(antennas, decades, generator):
    """min tr(W^H A W) - 2 Re tr(C^H W), ||W||^2 <= 1, eigenvalues and targets spread over many decades."""
    values = 10 ** (decades * (torch.rand(50, antennas, generator=generator, dtype=torch.float64) - 0.5))
    scale = 10 ** (decades * (torch.rand(50, antennas, 1, generator=generator, dtype=torch.float64) - 0.5))
    rows = scale * torch.randn(50, antennas, 3, generator=generator, dtype=torch.complex128)
    rows[::2] *= 10.0 ** -(decades + 1)  # every second target is too small to use the whole power
    quadratic, target, expected = sub_problem(antennas, values, rows, generator)
    assert {round(float(total)) for total in total_power(expected)} == {0, 1}
    torch.testing.assert_close(_power_constrained(quadratic, target), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("margin", [-1e-3, -1e-6, 0.0, 1e-6, 1e-3])
def test_users_nearly_switched_off_do_not_hide_the_root(margin, generator):
    """Strong users that ask for nearly the whole power, beside faint ones: the root is far above the faint poles."""
    strong, faint = torch.logspace(0, 1, 4, dtype=torch.float64), torch.logspace(-9, -7, 4, dtype=torch.float64)
    values = torch.cat([faint, strong]).expand(50, 8)
    rows = torch.randn(50, 8, 3, generator=generator, dtype=torch.complex128)
    asked = rows[:, 4:].abs().square().sum(-1) / strong.square()
    rows[:, 4:] *= ((1 - margin) / asked.sum(-1)).sqrt()[:, None, None]
    rows[:, :4] *= 10 ** (-6 + 3 * torch.rand(50, 1, 1, generator=generator, dtype=torch.float64))
    quadratic, target, expected = sub_problem(8, values, rows, generator)
    torch.testing.assert_close(_power_constrained(quadratic, target), expected, atol=1e-6, rtol=0)


def test_without_anything_to_serve_the_precoder_is_zero():
    nothing = torch.zeros(2, 4, 4, dtype=torch.complex128)
    assert _power_constrained(nothing, nothing).abs().max() == 0


def test_single_user_optimum_is_matched_and_at_full_power(make_channels):
    """One user each way and no coupling: the capacities of two separate links."""
    channels = make_channels(downlink_users=1, uplink_users=1)
    apart = without(channels, "cross", "self_interference")
    rates = link_rates(apart, *wmmse(apart, iterations=50, starts=3))
    gain = torch.stack([apart.downlink, apart.uplink]).abs().square().sum((-2, -1)).T
    torch.testing.assert_close(rates, torch.log2(1 + gain), atol=1e-3, rtol=0)


def test_single_antenna_optimum_agrees_with_a_grid_over_both_powers(make_channels):
    channels = make_channels(downlink_users=1, uplink_users=1, transmit_antennas=1, receive_antennas=1)
    level = torch.cat([torch.zeros(1), torch.logspace(-7, 0, 141)])
    down, up = (grid.flatten() for grid in torch.meshgrid(level, level, indexing="ij"))
    everywhere = channels.repeat(len(down))
    decision = down.sqrt().repeat(16)[:, None, None].to(torch.complex64), up.repeat(16)[:, None]
    best = sum_rate(everywhere, decision).unflatten(0, (16, -1)).amax(-1)
    found = sum_rate(channels, wmmse(channels, iterations=100, starts=12))
    assert (found > 0.98 * best).all()
    assert (found < best * 1.01).all()


def test_more_starts_are_never_worse(make_channels):
    channels = make_channels(4)
    rate = torch.stack([sum_rate(channels, wmmse(channels, iterations=20, starts=n)) for n in range(1, 13)])
    assert (rate[1:] >= rate[:-1] - 1e-4).all()
    assert (rate[-1] > rate[0]).any()


def test_twelve_starts_find_better_optima(make_channels):
    channels = make_channels(16)
    one, twelve = (sum_rate(channels, wmmse(channels, iterations=60, starts=n)).mean() for n in (1, 12))
    assert twelve > 1.01 * one


def test_a_state_is_solved_alone(channels):
    """Also its random starting points do not depend on the batch it comes in."""
    for solve in (
        lambda some: wmmse(some, iterations=5, starts=12),
        lambda some: starting_points(some, 12, torch.ones(some.batch, some.links)),
    ):
        whole, part = solve(channels), solve(channels[4:7])
        for all_states, some in zip(whole, part, strict=True):
            states = all_states.unflatten(0, (16, -1))[4:7].flatten(0, 1)
            torch.testing.assert_close(some, states, atol=1e-5, rtol=0)


def test_best_start_is_the_best_under_the_weights(channels):
    weights = torch.cat([torch.full((16, 6), 5.0), torch.full((16, 4), 0.1)], dim=-1)
    rate = torch.stack(
        [
            (weights * link_rates(channels, *wmmse(channels, iterations=5, starts=n, weights=weights))).sum(-1)
            for n in (1, 2, 3, 12)
        ]
    )
    assert (rate[1:] >= rate[:-1] - 1e-3).all()
    assert (rate[-1] > rate[0] + 1).any()


def test_no_iterations_give_the_start(channels, generator):
    precoder, power = wmmse(channels, iterations=0)
    torch.testing.assert_close(precoder, rzf(channels))
    assert torch.equal(power, full_uplink_power(channels))
    start = random_decision(channels, generator)
    for given, returned in zip(start, wmmse(channels, iterations=0, initial=start), strict=True):
        torch.testing.assert_close(returned, given)


@pytest.mark.parametrize("iterations", [1, 5, 30])
def test_warm_start_is_never_worse_than_the_start(channels, generator, iterations):
    optimum = wmmse(channels, iterations=100)
    for start in (random_decision(channels, generator), (rzf(channels), full_uplink_power(channels)), optimum):
        refined = wmmse(channels, iterations=iterations, initial=start)
        assert (sum_rate(channels, refined) >= sum_rate(channels, start) - 1e-3).all()
    cold = wmmse(channels, iterations=iterations)
    warm = wmmse(channels, iterations=iterations, initial=optimum)
    assert sum_rate(channels, warm).mean() > sum_rate(channels, cold).mean()


def test_weights_change_the_split(channels):
    downlink, uplink = [], []
    for uplink_weight in (0.05, 1.0, 20.0):
        weights = torch.cat([torch.ones(16, 6), uplink_weight * torch.ones(16, 4)], dim=-1)
        rates = link_rates(channels, *wmmse(channels, iterations=30, weights=weights))
        downlink.append(rates[:, :6].sum(-1).mean())
        uplink.append(rates[:, 6:].sum(-1).mean())
    assert downlink[0] > downlink[1] + 2 > downlink[2] + 4
    assert uplink[0] < uplink[1] - 2 < uplink[2] - 3


def test_weight_of_one_user_raises_that_user(channels):
    even = link_rates(channels, *wmmse(channels, iterations=30))
    for link in (2, 7):
        weights = torch.ones(16, 10)
        weights[:, link] = 10
        favoured = link_rates(channels, *wmmse(channels, iterations=30, weights=weights))
        assert (favoured - even)[:, link].mean() > 0.3
        assert favoured.sum(-1).mean() < even.sum(-1).mean()


def test_common_factor_of_the_weights_changes_nothing(channels):
    weights = torch.full((16, 10), 8.0)
    for plain, scaled in zip(
        wmmse(channels, iterations=10), wmmse(channels, iterations=10, weights=weights), strict=True
    ):
        torch.testing.assert_close(scaled, plain, atol=1e-5, rtol=0)


def test_result_follows_the_order_of_users(channels):
    down, up = [4, 2, 0, 5, 1, 3], [3, 1, 0, 2]
    precoder, power = wmmse(channels, iterations=5)
    permuted, power_permuted = wmmse(channels.permute_users(down, up), iterations=5)
    torch.testing.assert_close(permuted, precoder[..., down], atol=1e-4, rtol=0)
    torch.testing.assert_close(power_permuted, power[:, up], atol=1e-4, rtol=0)


def test_level_of_the_default_scenario(make_channels):
    """The two references that every result of this project is measured against."""
    channels = make_channels(256)
    assert sum_rate(channels, (rzf(channels), full_uplink_power(channels))).mean().item() == pytest.approx(67, abs=1.5)
    assert sum_rate(channels, wmmse(channels, iterations=200)).mean().item() == pytest.approx(91, abs=1.5)


def test_same_bits_every_time_and_the_global_generator_untouched(channels):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = wmmse(channels, iterations=2, starts=12)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = wmmse(channels, iterations=2, starts=12)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("name", ["downlink", "uplink", "cross", "self_interference"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_channels_that_are_not_finite_are_refused_by_name(channels, name, value):
    spoilt = getattr(channels, name).clone()
    spoilt.view(-1)[3] = value
    with pytest.raises(InputError, match=rf"channels\.{name}"):
        wmmse(dataclasses.replace(channels, **{name: spoilt}))


@pytest.mark.parametrize("starts", [0, 13, -1])
def test_a_number_of_starts_out_of_range_is_refused(channels, starts):
    with pytest.raises(InputError, match=f"1 to 12 starts, got {starts}"):
        wmmse(channels, starts=starts)


def test_negative_iterations_are_refused(channels):
    with pytest.raises(InputError, match="0 iterations or more, got -1"):
        wmmse(channels, iterations=-1)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_weights_that_make_no_sense_are_refused(channels, value):
    weights = torch.ones(16, 10)
    weights[3, 4] = value
    with pytest.raises(InputError, match="link weights must be finite and not negative"):
        wmmse(channels, weights=weights)


@pytest.mark.parametrize("shape", [(16, 9), (10,), (1, 10), (16, 6)])
def test_weights_that_do_not_fit_are_refused(channels, shape):
    with pytest.raises(InputError, match=r"link weights have shape .*, channels ask for \(16, 10\)"):
        wmmse(channels, weights=torch.ones(shape))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w, p: (w, p - 0.5), r"uplink powers must lie in \[0, 1\], got -"),
        (lambda w, p: (w, p + 1), r"uplink powers must lie in \[0, 1\]"),
        (lambda w, p: (2 * w, p), "precoder's total power must be at most 1, got 4"),
        (lambda w, p: (w, p * float("nan")), "uplink_power holds NaN or infinite"),
        (lambda w, p: (w * float("nan"), p), "precoder holds NaN or infinite"),
        (lambda w, p: (w.mT, p), r"precoder has shape \(16, 6, 8\), channels ask for \(16, 8, 6\)"),
        (lambda w, p: (w[:1], p), r"precoder has shape \(1, 8, 6\)"),
        (lambda w, p: (w, p[:, :3]), r"uplink_power has shape \(16, 3\), channels ask for \(16, 4\)"),
    ],
)
def test_a_start_that_cannot_be_used_is_refused_by_name(channels, generator, spoil, message):
    with pytest.raises(InputError, match=message):
        wmmse(channels, initial=spoil(*random_decision(channels, generator)))


def test_a_start_above_the_limit_by_rounding_is_taken(channels, generator):
    precoder, power = random_decision(channels, generator)
    power[:, 0] = 1 + 1e-6
    refined = wmmse(channels, iterations=0, initial=(precoder * (1 + 1e-5), power))
    assert (total_power(refined[0]) <= 1 + 1e-6).all()
    assert (refined[1] <= 1).all()


def test_channels_without_a_batch_are_refused_before_anything_is_read_off_them(channels):
    with pytest.raises(InputError, match="needs 3 dimensions"):
        wmmse(replace(channels, downlink=channels.downlink[0, 0]))


def test_costs_are_what_the_quadratic_forms_of_wmmse_say_without_the_own_part(channels, generator):
    precoder, power = random_decision(channels, generator)
    exact, weights = channels.double(), torch.rand(16, 10, generator=generator, dtype=torch.float64)
    beams = precoder.to(torch.complex128)
    at = receivers(exact, beams, power.double().sqrt(), weights)
    own = at.price * (exact.downlink.conj() * beams.mT).sum(-1).abs().square()
    torch.testing.assert_close(at.costs[:, :6], (beams.conj() * (at.quadratic @ beams)).real.sum(-2) - own)
    heard = (at.v.mH @ exact.uplink.mT).abs().square()
    at_combiners = (at.b.unsqueeze(-1) * heard).sum(-2) - at.b * at.correlation.square()
    at_users = (exact.cross.abs().square() * at.price.unsqueeze(-2)).sum(-1)
    torch.testing.assert_close(at.costs[:, 6:], at_combiners + at_users)

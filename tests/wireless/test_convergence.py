"""WMMSE until it has converged: where it ends, that it never falls, and what it refuses."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from d2rl.common.errors import InputError
from d2rl.common.notices import notice_once
from d2rl.wireless import converged_wmmse, convergence, full_uplink_power, link_rates, random_decision, rzf, wmmse
from d2rl.wireless.convergence import Ascent, refined
from d2rl.wireless.priced_step import priced_step
from d2rl.wireless.wmmse import improve, wmmse_iteration

KINDS = torch.complex128, torch.float64
LARGE = {"transmit_antennas": 64, "receive_antennas": 64, "downlink_users": 24, "uplink_users": 24}


@pytest.fixture
def channels(make_channels):
    return make_channels(8)


def weighted(channels, decision, weights=1.0):
    precoder, amplitude = amplitudes(decision)
    return (weights * link_rates(channels.double(), precoder, amplitude.square())).sum(-1)


def amplitudes(decision):
    precoder, power = decision
    return precoder.to(torch.complex128), power.double().sqrt()


def test_it_ends_where_a_wmmse_iteration_gains_nothing(channels):
    decision = converged_wmmse(channels, limit=400)
    weights = torch.ones(8, 10, dtype=torch.float64)
    before = weighted(channels, decision)
    precoder, amplitude = amplitudes(decision)
    for _ in range(20):
        precoder, amplitude = wmmse_iteration(channels.double(), precoder, amplitude, weights)
    assert (weighted(channels, (precoder, amplitude.square())) - before < 1e-3 * before).all()
    assert (before.mean() > 1.02 * weighted(channels, wmmse(channels, 200)).mean()).all()


@pytest.mark.parametrize("cross", [1, 10], ids=["as drawn", "users near each other"])
def test_a_priced_power_is_where_its_own_gain_would_equal_what_it_costs_the_others(channels, generator, cross):
    """Both are derivatives of the rates: receivers are the best, so that they may be held fixed."""
    channels = replace(channels, cross=channels.cross * cross).double()
    precoder, power = (part.to(kind) for part, kind in zip(random_decision(channels, generator), KINDS, strict=True))
    power = (0.02 * power).requires_grad_()
    rates = link_rates(channels, precoder, power).sum(0)
    slopes = torch.stack([torch.autograd.grad(rate, power, retain_graph=True)[0] for rate in rates], dim=-2)
    gained = slopes[:, 6:].diagonal(dim1=-2, dim2=-1)
    expected = power * gained / (gained - slopes.sum(-2))
    _, _, amplitude = priced_step(channels, precoder, power.sqrt(), torch.ones(8, 10).double())
    torch.testing.assert_close(amplitude.square(), expected.clamp(0, 1), rtol=1e-6, atol=1e-12)


def test_a_converged_decision_is_a_fixed_point_of_the_priced_step(channels):
    """The step that speeds WMMSE up has no solutions of its own."""
    decision = converged_wmmse(channels, tolerance=1e-7, limit=400)
    objective, precoder, amplitude = priced_step(channels.double(), *amplitudes(decision), torch.ones(8, 10).double())
    torch.testing.assert_close(objective, weighted(channels, decision), rtol=1e-6, atol=0)
    after = weighted(channels, (precoder, amplitude.square()))
    assert ((after - objective).abs() < 1e-3 * objective).all()  # it was stored in single precision


@pytest.mark.parametrize("level", [-40, 0, 40, 100])
@pytest.mark.parametrize(
    "cell", [{}, {"transmit_antennas": 2, "receive_antennas": 2}, {"downlink_users": 1, "uplink_users": 1}]
)
def test_never_worse_than_its_start_at_any_level(make_channels, generator, level, cell):
    channels = make_channels(4, **cell).map(lambda tensor: tensor * 10 ** (level / 20))
    for start in ((rzf(channels), full_uplink_power(channels)), random_decision(channels, generator)):
        precoder, power = converged_wmmse(channels, initial=start, limit=100)
        assert (precoder.abs().square().sum((-2, -1)) <= 1 + 1e-5).all()
        assert ((power >= 0) & (power <= 1)).all()
        before, after = (weighted(channels, decision) for decision in (start, (precoder, power)))
        assert (after >= before - 1e-4 * (1 + before)).all()


@pytest.mark.parametrize("level", [-40, 0, 60, 100])
def test_never_worse_than_its_start_at_any_level_with_64_antennas_and_48_links(make_channels, generator, level):
    channels = make_channels(1, **LARGE).map(lambda tensor: tensor * 10 ** (level / 20))
    for start in ((rzf(channels), full_uplink_power(channels)), random_decision(channels, generator)):
        precoder, power = converged_wmmse(channels, initial=start, limit=5)
        assert (precoder.abs().square().sum((-2, -1)) <= 1 + 1e-5).all()
        assert ((power >= 0) & (power <= 1)).all()
        before, after = (weighted(channels, decision) for decision in (start, (precoder, power)))
        assert (after >= before - 1e-4 * (1 + before)).all()


def test_64_antennas_and_48_links(make_channels):
    channels = make_channels(1, **LARGE)
    start = rzf(channels), full_uplink_power(channels)
    decision = converged_wmmse(channels, initial=start, limit=20)
    assert (weighted(channels, decision) > weighted(channels, start) + 1).all()


@pytest.mark.parametrize("level", [-40, 0, 60, 100])
@pytest.mark.parametrize("link", [0, 5, 6, 9])
def test_a_single_wanted_link_gets_its_matched_beam_and_full_power(make_channels, level, link):
    channels = make_channels(8).map(lambda tensor: tensor * 10 ** (level / 20))
    weights = torch.zeros(8, 10)
    weights[:, link] = 1
    alone = channels.downlink[:, link] if link < 6 else channels.uplink[:, link - 6]
    best = torch.log2(1 + alone.to(torch.complex128).abs().square().sum(-1))
    torch.testing.assert_close(
        weighted(channels, converged_wmmse(channels, weights=weights), weights), best, rtol=1e-4, atol=1e-6
    )


def test_a_state_that_has_converged_leaves_the_others_alone(channels):
    whole, part = (weighted(some, converged_wmmse(some, tolerance=1e-3)) for some in (channels, channels[2:4]))
    torch.testing.assert_close(part, whole[2:4], rtol=5e-3, atol=0)


def test_more_starts_are_never_worse(make_channels):
    channels = make_channels(4)
    one, four = (weighted(channels, converged_wmmse(channels, starts=n, limit=100)) for n in (1, 4))
    assert (four >= one - 1e-3).all()


def test_all_that_is_extrapolated_keeps_the_limits(channels, generator):
    start = random_decision(channels, generator)
    ascent = Ascent(channels.double(), *start, torch.ones(8, 10))
    ascent.run(1e-5, 30)
    ascent.moves.normal_(generator=generator)
    ascent.changes.normal_(generator=generator)
    precoder, amplitude = ascent._split(ascent._extrapolated())
    assert (precoder.abs().square().sum((-2, -1)) <= 1 + 1e-9).all()
    assert ((amplitude > 0) & (amplitude <= 1)).all()


@pytest.mark.parametrize("starts", [1, 2])
def test_states_that_do_not_converge_are_counted_once(channels, caplog, starts):
    """States, however many starts each of them has."""
    notice_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            decision = converged_wmmse(channels, starts=starts, limit=3)
    assert [record.getMessage() for record in caplog.records] == [
        "WMMSE had not converged after 3 iterations in 8 of 8 states; their decisions are used as they are"
    ]
    assert (weighted(channels, decision) > weighted(channels, (rzf(channels), full_uplink_power(channels)))).all()


def test_a_state_of_which_one_start_does_not_converge_counts_once(channels, caplog, monkeypatch):
    """Also where the states are worked on in several parts."""
    monkeypatch.setattr(convergence, "VALUES", 3 * 8 * 6)  # three decisions at a time
    monkeypatch.setattr(Ascent, "run", lambda self, *_: self.places[-1:])  # of 3, 3, 3, 3, 3 and 1 decisions
    notice_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        converged_wmmse(channels, starts=2, limit=7)
    # decisions 2, 5, 8, 11, 14 and 15 are of states 1, 2, 4, 5, 7 and 7
    assert "after 7 iterations in 5 of 8 states" in caplog.text


@pytest.mark.parametrize("tolerance", [0.0, -1e-5, float("nan")])
def test_a_tolerance_that_is_never_met_is_refused(channels, tolerance):
    with pytest.raises(InputError, match="tolerance above 0"):
        converged_wmmse(channels, tolerance=tolerance)


def test_a_limit_without_iterations_is_refused(channels):
    with pytest.raises(InputError, match="limit of 1 iteration or more, got 0"):
        converged_wmmse(channels, limit=0)


@pytest.mark.parametrize("iterations", [1, 5])
def test_refining_is_never_worse_and_gains_more_than_as_many_wmmse_iterations(channels, generator, iterations):
    start, weights = random_decision(channels, generator), torch.ones(8, channels.links)
    found = weighted(channels, refined(channels, *start, weights, iterations))
    assert (found >= weighted(channels, start) - 1e-3).all()
    assert found.mean() > weighted(channels, improve(channels, *start, weights, iterations)).mean()


def test_a_lone_uplink_user_goes_to_full_power_in_one_priced_step(make_channels):
    channels = make_channels(downlink_users=0, uplink_users=1).double()
    nothing = torch.zeros(channels.batch, 8, 0, dtype=torch.complex128)
    _, _, amplitude = priced_step(channels, nothing, torch.full((channels.batch, 1), 0.1).double(), torch.ones(16, 1))
    assert torch.equal(amplitude, torch.ones_like(amplitude))

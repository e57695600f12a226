"""Channels from silent to 120 dB above noise, of any rank: everything stays finite, limits and bounds hold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import extreme_actions, extreme_channels
from torch import Tensor

from d2rl.wireless import full_uplink_power, link_rates, mrt, random_decision, rzf, wmmse, zf
from d2rl.wireless.bounds import interference_free_rates
from d2rl.wireless.heads import make_head
from d2rl.wireless.link_powers import link_powers
from d2rl.wireless.link_rates import squared_magnitude

bounded = settings(
    max_examples=150, derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
few = settings(bounded, max_examples=60)
HEADS = st.sampled_from(["structured", "beamforming"])


def finite(*tensors: Tensor) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def assert_allowed(precoder: Tensor, power: Tensor) -> None:
    assert finite(precoder, power)
    assert squared_magnitude(precoder).sum((-2, -1)).max() <= 1 + 1e-5
    assert power.min() >= 0
    assert power.max() <= 1


@bounded
@given(channels=extreme_channels(), seed=st.integers(0, 99), level=st.sampled_from([0.0, 1e-20, 1e-6, 1.0]))
def test_rates_and_their_gradients_are_finite(channels, seed, level):
    beams, power = random_decision(channels, torch.Generator().manual_seed(seed))
    beams, power = (level * beams).requires_grad_(), (level * power).requires_grad_()
    rates = link_rates(channels, beams, power)
    rates.sum().backward()
    assert finite(rates, beams.grad, power.grad)
    assert rates.min() >= -1e-12  # rounding, in double


@bounded
@given(channels=extreme_channels(), seed=st.integers(0, 99), level=st.sampled_from([0.0, 1e-20, 1e-6, 1.0]))
def test_what_disturbs_a_link_is_finite_and_never_below_the_noise(channels, seed, level):
    beams, power = random_decision(channels, torch.Generator().manual_seed(seed))
    beams, power = (level * beams).requires_grad_(), (level * power).requires_grad_()
    signal, disturbance = link_powers(channels, beams, power)
    (torch.log(1 + signal) + torch.log(disturbance)).sum().backward()
    assert finite(signal, disturbance, beams.grad, power.grad)
    assert signal.min() >= 0
    assert disturbance.min() >= 1


@bounded
@given(data=st.data(), channels=extreme_channels(), name=HEADS)
def test_every_action_is_allowed_and_its_rates_have_finite_gradients(data, channels, name):
    head = make_head(name, channels.transmit_antennas)
    action = data.draw(extreme_actions(head, channels)).requires_grad_()
    decision = head.decode(channels, action)
    rates = link_rates(channels, *decision)
    rates.sum().backward()
    assert_allowed(*(tensor.detach() for tensor in decision))
    assert finite(rates, action.grad)


@bounded
@given(channels=extreme_channels())
@pytest.mark.parametrize("precoder", [mrt, zf, rzf])
def test_closed_form_precoders_are_allowed(channels, precoder):
    assert_allowed(precoder(channels), full_uplink_power(channels))


@few
@given(channels=extreme_channels(), starts=st.sampled_from([1, 3, 8]))
def test_wmmse_is_allowed_and_never_below_its_start(channels, starts):
    exact = channels.double()
    before = link_rates(exact, rzf(exact), full_uplink_power(exact)).sum(-1)
    decision = wmmse(exact, iterations=6, starts=starts)
    assert_allowed(*decision)
    after = link_rates(exact, *decision)
    assert finite(after)
    # at 100 dB and more of self-interference above noise a covariance leaves double precision few digits
    assert (after.sum(-1) >= before - 1e-3 * before.clamp_min(1)).all()


@few
@given(channels=extreme_channels(), name=HEADS, data=st.data())
def test_no_decision_passes_the_bound(channels, name, data):
    head = make_head(name, channels.transmit_antennas)
    action = data.draw(extreme_actions(head, channels))
    bound = interference_free_rates(channels)
    assert finite(bound)
    reached = link_rates(channels, *head.decode(channels, action)).sum(-1)
    assert (reached <= bound.sum(-1) * (1 + 1e-4) + 1e-3).all()

"""The same cells 150 dB weaker to 150 dB stronger: nothing may be a difference of nearly equal numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import mpmath
import pytest
import torch
from torch import Tensor

from d2rl.wireless import ChannelState, full_uplink_power, link_rates, random_decision, rzf, wmmse
from d2rl.wireless.bounds import interference_free_rates, water_filling
from d2rl.wireless.link_powers import link_powers
from d2rl.wireless.wmmse import wmmse_iteration

LEVELS = (-150.0, -100.0, -50.0, 0.0, 50.0, 100.0, 150.0)  # dB
SMALL = {"downlink_users": 2, "uplink_users": 2, "transmit_antennas": 3, "receive_antennas": 4}


def at_level(channels: ChannelState, decibel: float) -> ChannelState:
    """Every array so that the median of |h|^2 over noise is ``decibel``, in double."""
    return channels.double().map(lambda h: h / h.abs().square().median().sqrt() * 10 ** (decibel / 20))


def moved(channels: ChannelState, decibel: float) -> ChannelState:
    return channels.double().map(lambda h: h * 10 ** (decibel / 20))


def exact_sinr(channels: ChannelState, precoder: Tensor, power: Tensor) -> list[float]:
    """SINR of every link of the first state by its formula, with 80 digits."""
    g, h, f, h_s = (mpmath.matrix(tensor[0].tolist()) for tensor in channels.tensors().values())
    w, p = mpmath.matrix(precoder[0].tolist()), power[0].tolist()
    received, leakage = g.conjugate() * w, h_s * w
    found = []
    for j in range(g.rows):
        others = sum(abs(received[j, i]) ** 2 for i in range(g.rows) if i != j)
        others += sum(p[k] * abs(f[k, j]) ** 2 for k in range(h.rows))
        found.append(abs(received[j, j]) ** 2 / (others + 1))
    for k in range(h.rows):
        noise = mpmath.eye(h.cols) + leakage * leakage.H
        for i in range(h.rows):
            if i != k:
                noise += p[i] * h[i, :].T * h[i, :].conjugate()
        found.append(p[k] * mpmath.re((h[k, :].conjugate() * mpmath.lu_solve(noise, h[k, :].T))[0]))
    return found


@pytest.mark.parametrize("level", LEVELS)
def test_rates_and_powers_are_the_formulas_of_80_digits(make_channels, level):
    """At 150 dB of self-interference over noise, double precision keeps a digit or two of the noise."""
    channels = at_level(make_channels(1, **SMALL), level)
    precoder, power = random_decision(channels, torch.Generator().manual_seed(3))
    precoder, power = precoder.to(torch.complex128), power.double()
    with mpmath.workdps(80):
        sinr = exact_sinr(channels, precoder, power)
        rates = [float(mpmath.log(1 + one, 2)) for one in sinr]
        sinr = [float(one) for one in sinr]
    precise = level <= 100
    found = link_rates(channels, precoder, power)[0].tolist()
    assert found == pytest.approx(rates, rel=1e-6 if precise else 0.02, abs=1e-14)
    signal, disturbance = link_powers(channels, precoder, power)
    assert (signal / disturbance)[0].tolist() == pytest.approx(sinr, rel=1e-4 if precise else 0.5)


@pytest.mark.parametrize("level", LEVELS)
def test_wmmse_never_falls_at_any_level(make_channels, level):
    channels = at_level(make_channels(4), level)
    weights = torch.ones(4, 10, dtype=torch.float64)
    precoder, amplitude = rzf(channels) * (1 - 1e-6), full_uplink_power(channels)
    objective = link_rates(channels, precoder, amplitude.square()).sum(-1)
    for _ in range(20):
        precoder, amplitude = wmmse_iteration(channels, precoder, amplitude, weights)
        assert precoder.abs().square().sum((-2, -1)).max() <= 1 + 1e-12
        following = link_rates(channels, precoder, amplitude.square()).sum(-1)
        # double precision keeps a digit or two of noise that is 150 dB below self-interference
        assert (following >= objective * (1 - (1e-7 if level <= 50 else 0.02)) - 1e-13).all()
        objective = following


@pytest.mark.parametrize("level", [-150.0, 89.0, 150.0])
@pytest.mark.parametrize("single", [True, False])
def test_wmmse_gains_on_rzf_at_any_level(make_channels, level, single):
    """In single precision, too, as channels of a bank come."""
    channels = moved(make_channels(4), level)
    if single:
        channels = channels.map(lambda tensor: tensor.to(torch.complex64))
    before = link_rates(channels, rzf(channels), full_uplink_power(channels)).sum(-1)
    after = link_rates(channels, *wmmse(channels, 50, starts=3)).sum(-1)
    assert torch.isfinite(before).all()
    assert (after >= before * (1 - 1e-3)).all()
    if level > 0:
        assert after.mean() > 2 * before.mean()


@pytest.mark.parametrize("own", [-150.0, -60.0])
def test_what_a_faint_uplink_user_has_to_overcome_is_what_a_loud_one_brings(make_channels, own):
    """Alone with one other, at one antenna: its noise, and all of the other's power."""
    cell = make_channels(3, downlink_users=1, uplink_users=2, transmit_antennas=1, receive_antennas=1)
    uplink = torch.tensor([[10 ** (own / 20)], [1e5]], dtype=torch.complex64).expand(3, 2, 1)
    channels = replace(cell, uplink=uplink, self_interference=torch.zeros_like(cell.self_interference))
    disturbance = link_powers(channels, rzf(channels), torch.tensor([[0.0, 1.0]]).expand(3, 2))[1]
    torch.testing.assert_close(disturbance[:, 1], torch.full((3,), 1e10 + 1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("level", LEVELS)
def test_water_filling_spends_the_power_at_any_level(level):
    """In single precision; at low levels on the best channel alone, or on equal ones alike."""
    gain = torch.tensor([[1.0, 1.0, 0.5], [3.0, 2.0, 1.0]]) * 10 ** (level / 10)
    share = water_filling(gain)
    torch.testing.assert_close(share.sum(-1), torch.ones(2), rtol=1e-5, atol=0)
    if level < 0:
        torch.testing.assert_close(share, torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), rtol=0, atol=1e-4)
    if level > 50:
        torch.testing.assert_close(share, torch.full((2, 3), 1 / 3), rtol=0, atol=1e-4)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("policy", [rzf, lambda channels: wmmse(channels, 20)[0]], ids=["rzf", "wmmse"])
def test_no_decision_passes_the_bound_at_any_level(make_channels, level, policy: Callable[[ChannelState], Tensor]):
    channels = moved(make_channels(4), level)
    reached = link_rates(channels, policy(channels), full_uplink_power(channels)).sum(-1)
    bound = interference_free_rates(channels).sum(-1)
    assert (reached <= bound * (1 + 1e-6) + 1e-13).all()
    assert (bound > 0).all()

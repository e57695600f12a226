"""Statistics of the small-scale fading, at seeds of their own."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from d2rl.wireless import ChannelState
from d2rl.wireless.fading import (
    complex_normal,
    estimate,
    evolve,
    jakes_correlation,
    rayleigh,
    rician,
    scale,
    whiten,
)
from d2rl.wireless.propagation import LinkGains

CPU = torch.device("cpu")
NAMES = ["downlink", "uplink", "cross", "self_interference"]


@pytest.fixture
def many(make_channels) -> ChannelState:
    """Enough states for statistics: 12 000 samples or more of every kind of channel."""
    return make_channels(500)


def power(tensor: Tensor) -> float:
    return tensor.abs().double().square().mean().item()


def correlation(first: Tensor, second: Tensor) -> complex:
    return (first.conj().to(torch.complex128) * second).mean().item()


def test_complex_normal_is_circular_with_unit_power(generator):
    sample = complex_normal((200_000,), generator, CPU)
    assert power(sample) == pytest.approx(1, abs=0.01)
    assert abs(sample.mean().item()) < 0.01
    assert abs(sample.square().mean().item()) < 0.01  # real and imaginary part alike and uncorrelated


def test_rayleigh_links_have_unit_power_and_no_correlation(many, generator):
    first, second = rayleigh(many, generator), rayleigh(many, generator)
    for name in NAMES:
        sample = getattr(first, name)
        assert sample.shape == getattr(many, name).shape
        assert power(sample) == pytest.approx(1, abs=0.04), name
        assert abs(correlation(sample, getattr(second, name))) < 0.04, name
    assert abs(correlation(first.downlink[..., 0], first.downlink[..., 1])) < 0.06


@pytest.mark.parametrize("factor", [-10.0, 0.0, 1.0, 10.0])
def test_rician_keeps_unit_power_and_has_the_given_factor(factor, generator):
    sample = rician(complex_normal((200_000,), generator, CPU), factor).to(torch.complex128)
    line_of_sight = sample.mean().abs().square().item()
    scattered = (sample - sample.mean()).abs().square().mean().item()
    assert line_of_sight + scattered == pytest.approx(1, abs=0.01)
    assert line_of_sight == pytest.approx(scattered * 10 ** (factor / 10), rel=0.05)


def test_rician_line_of_sight_has_the_given_coefficients(generator):
    phases = torch.polar(torch.ones(8), torch.linspace(0, 3, 8))
    sample = rician(complex_normal((50_000, 8), generator, CPU), 3.0, phases).to(torch.complex128)
    k = 10**0.3
    torch.testing.assert_close(sample.mean(0), phases.to(torch.complex128) * (k / (k + 1)) ** 0.5, atol=0.02, rtol=0)
    assert power(sample) == pytest.approx(1, abs=0.01)


def test_rician_without_a_factor_is_rayleigh(generator):
    sample = complex_normal((10,), generator, CPU)
    assert torch.equal(rician(sample, None), sample)


def test_jakes_correlation_is_the_bessel_function():
    assert jakes_correlation(0.0, 2e9, 1e-3) == 1.0
    doppler_times_slot = 0.05  # x = 2 pi 0.05; J_0(x) = 1 - x^2 / 4 + x^4 / 64 - x^6 / 2304 + ...
    x2 = (2 * torch.pi * doppler_times_slot) ** 2
    speed = doppler_times_slot / 1e-3 * 299_792_458.0 / 2e9
    assert jakes_correlation(speed, 2e9, 1e-3) == pytest.approx(1 - x2 / 4 + x2**2 / 64 - x2**3 / 2304, abs=1e-7)
    zero = 2.404825557695773 / (2 * torch.pi)  # first zero of J_0
    assert jakes_correlation(zero / 1e-3 * 299_792_458.0 / 2e9, 2e9, 1e-3) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("rho", [0.9, 0.3, -0.4])
def test_gauss_markov_keeps_unit_power_and_has_its_correlation(many, rho, generator):
    start = rayleigh(many, generator)
    one = evolve(start, rho, generator)
    two = evolve(one, rho, generator)
    later = two
    for _ in range(10):
        later = evolve(later, rho, generator)
    for name in NAMES:
        a, b, c = (getattr(state, name) for state in (start, one, two))
        assert correlation(a, b) == pytest.approx(rho, abs=0.04), name
        assert correlation(a, c) == pytest.approx(rho**2, abs=0.04), name
        assert power(getattr(later, name)) == pytest.approx(1, abs=0.04), name


def test_gauss_markov_at_its_ends(channels, generator):
    start = rayleigh(channels, generator)
    frozen = evolve(start, 1.0, generator)
    fresh = evolve(start, 0.0, torch.Generator().manual_seed(3))
    drawn = rayleigh(start, torch.Generator().manual_seed(3))
    for name in NAMES:
        assert torch.equal(getattr(frozen, name), getattr(start, name)), name
        assert torch.equal(getattr(fresh, name), getattr(drawn, name)), name


def test_whiten_undoes_scale(channels, gains, generator):
    small = rayleigh(channels, generator)
    again = whiten(scale(small, gains), gains)
    for name in NAMES:
        torch.testing.assert_close(getattr(again, name), getattr(small, name), rtol=1e-5, atol=0)


def test_scale_gives_each_link_its_own_mean_gain(channels, gains):
    ones = channels.map(torch.ones_like)
    scaled = scale(ones, gains)
    torch.testing.assert_close(scaled.downlink[3, 2].abs().square(), gains.downlink[3, 2].expand(8))
    torch.testing.assert_close(scaled.uplink[5, 1].abs().square(), gains.uplink[5, 1].expand(8))
    torch.testing.assert_close(scaled.cross.abs().square(), gains.cross)
    torch.testing.assert_close(scaled.self_interference[7].abs().square(), gains.self_interference[7].expand(8, 8))


def test_whitened_links_of_zero_gain_are_zero(channels, gains, generator):
    off = dataclasses.replace(gains, self_interference=torch.zeros(16), cross=torch.zeros_like(gains.cross))
    white = whiten(scale(rayleigh(channels, generator), off), off)
    assert white.validate().self_interference.abs().max() == 0
    assert white.cross.abs().max() == 0
    assert power(white.downlink) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("error", [0.05, 0.5, 1.0])
def test_estimate_keeps_the_variance_and_loses_the_right_correlation(error, generator):
    n = 2000
    like = ChannelState(
        downlink=torch.zeros(n, 2, 8, dtype=torch.complex64),
        uplink=torch.zeros(n, 2, 8, dtype=torch.complex64),
        cross=torch.zeros(n, 2, 2, dtype=torch.complex64),
        self_interference=torch.zeros(n, 8, 8, dtype=torch.complex64),
    )
    one = {"downlink": (n, 2), "uplink": (n, 2), "cross": (n, 2, 2), "self_interference": (n,)}
    gains = LinkGains(**{name: 10 ** (4 * torch.rand(shape, generator=generator)) for name, shape in one.items()})
    true = scale(rayleigh(like, generator), gains)
    seen = whiten(estimate(true, gains, error, generator), gains)
    true = whiten(true, gains)
    for name in NAMES:
        assert power(getattr(seen, name)) == pytest.approx(1, abs=0.05), name
        assert correlation(getattr(true, name), getattr(seen, name)) == pytest.approx((1 - error) ** 0.5, abs=0.05), (
            name
        )


def test_estimate_without_error_is_the_channel(channels, gains, generator):
    assert estimate(channels, gains, 0.0, generator) is channels


def test_fading_comes_from_the_given_generator_alone(channels, gains):
    def draw(seed: int) -> list[Tensor]:
        own = torch.Generator().manual_seed(seed)
        state = evolve(rayleigh(channels, own), 0.7, own)
        return [*state.tensors().values(), *estimate(channels, gains, 0.1, own).tensors().values()]

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draw(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, draw(5), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, draw(6), strict=True))

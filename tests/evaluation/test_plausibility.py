"""Plausibility metrics on samples whose relation is known."""

import json
import math
from dataclasses import replace

import pytest
import torch

from d2rl.problems.full_duplex.plausibility import (
    antenna_correlation_error,
    covariance_error,
    gain_ks,
    kolmogorov_smirnov,
    magnitude_ks,
    maximum_mean_discrepancy,
    neighbour_ratio,
    plausibility,
    sum_rates,
)
from d2rl.wireless import ChannelState
from d2rl.wireless.fading import complex_normal, rician, scale, whiten
from d2rl.wireless.propagation import LinkGains

DISTANCES = [covariance_error, magnitude_ks, gain_ks, antenna_correlation_error, maximum_mean_discrepancy]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(count: int, seed: int, correlation: float = 0.0, size: int = 4) -> torch.Tensor:
    index = torch.arange(size)
    root = torch.linalg.cholesky(correlation ** (index[:, None] - index).abs().float()).to(torch.complex64)
    return complex_normal((count, size), seeded(seed), torch.device("cpu")) @ root.mT


def states(batch: int, seed: int, correlation: float = 0.0) -> tuple[ChannelState, LinkGains]:
    generator = seeded(seed)
    si = rician(rows(batch * 4, seed + 500).unflatten(0, (batch, 4)), 1.0)
    small = ChannelState(
        rows(batch * 3, seed + 100, correlation).unflatten(0, (batch, 3)),
        rows(batch * 2, seed + 200, correlation).unflatten(0, (batch, 2)),
        rows(batch * 2, seed + 300, size=3).unflatten(0, (batch, 2)),
        si,
    )
    shapes = ((batch, 3), (batch, 2), (batch, 2, 3), (batch,))
    gains = LinkGains(*(10 ** (1 + torch.rand(shape, generator=generator)) for shape in shapes))
    return scale(small, gains), gains


@pytest.mark.parametrize("metric", DISTANCES)
def test_equal_samples_are_at_zero(metric):
    sample = rows(400, seed=1)
    assert float(metric(sample, sample)) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("metric", DISTANCES)
def test_samples_of_one_distribution_are_near_zero(metric):
    assert abs(metric(rows(2000, seed=1, correlation=0.5), rows(2000, seed=2, correlation=0.5))) < 0.07


@pytest.mark.parametrize("metric", [covariance_error, antenna_correlation_error, maximum_mean_discrepancy, gain_ks])
def test_lost_correlation_is_seen(metric):
    same = abs(metric(rows(2000, seed=1, correlation=0.9), rows(2000, seed=2, correlation=0.9)))
    assert metric(rows(2000, seed=1, correlation=0.9), rows(2000, seed=3)) > max(0.015, 4 * same)


def test_covariance_error_of_twice_the_power_is_one():
    sample = rows(500, seed=1, correlation=0.7)
    assert float(covariance_error(sample, math.sqrt(2) * sample)) == pytest.approx(1, rel=1e-5)


def test_antenna_correlation_error_is_the_change_of_correlation():
    error = antenna_correlation_error(rows(20_000, seed=1, correlation=0.8), rows(20_000, seed=2))
    assert float(error) == pytest.approx(0.8, abs=0.03)


def test_magnitude_ks_has_the_closed_form_of_two_rayleigh_distributions():
    """max over r of exp(-r^2 / 2) - exp(-r^2), the unit-power law against twice the power, is 1/4."""
    ks = magnitude_ks(rows(20_000, seed=1), math.sqrt(2) * rows(20_000, seed=2))
    assert float(ks) == pytest.approx(0.25, abs=0.01)


def test_ks_of_disjoint_samples_is_one_and_of_a_shift_its_share():
    first = torch.arange(10.0)
    assert kolmogorov_smirnov(first, first + 100).item() == 1
    assert kolmogorov_smirnov(first, first + 3).item() == pytest.approx(0.3)
    assert kolmogorov_smirnov(first, torch.arange(0.25, 10, 0.5)).item() == pytest.approx(0.1)


def test_memorised_copies_are_detected():
    training, real, fresh = rows(300, seed=1), rows(300, seed=2), rows(300, seed=3)
    copies = training + 0.02 * rows(300, seed=4)
    assert float(neighbour_ratio(real, fresh, training)) == pytest.approx(1, abs=0.1)
    assert neighbour_ratio(real, copies, training) < 0.1
    assert neighbour_ratio(real, 3 * fresh, training) > 1.5


@pytest.mark.parametrize("method", ["rzf", "wmmse"])
def test_rate_distribution_sees_a_loss_of_power(method):
    (real, _), (same, _) = states(150, seed=1), states(150, seed=2)
    rates = [sum_rates(channels, method) for channels in (real, same, same.map(lambda t: 0.3 * t))]
    assert kolmogorov_smirnov(rates[0], rates[1]) < 0.2
    assert kolmogorov_smirnov(rates[0], rates[2]) > 0.5


def test_report_accepts_channels_of_the_same_distribution():
    """Each verdict is wrong one time in twenty by construction; nearly all must hold."""
    real, made, training = (
        states(200, seed=1, correlation=0.8),
        states(200, seed=2, correlation=0.8),
        states(100, seed=3),
    )
    state = torch.get_rng_state()
    report = plausibility(real[0], made[0], real[1], made[1], training, generator=seeded())
    assert torch.equal(state, torch.get_rng_state())
    assert sum(entry["within"] for entry in report.values()) >= len(report) - 3
    assert all(math.isfinite(entry["value"]) and math.isfinite(entry["chance"]) for entry in report.values())
    assert {"downlink/covariance", "cross/magnitude", "self_interference/mmd", "rate/rzf", "rate/wmmse"} <= set(report)
    json.dumps(report)


def test_report_rejects_wrong_fading_and_copies():
    real, wrong, training = (
        states(200, seed=1, correlation=0.9),
        states(200, seed=2),
        states(100, seed=3, correlation=0.9),
    )
    report = plausibility(real[0], wrong[0], real[1], wrong[1], training, bootstrap=5, generator=seeded())
    for name in ("covariance", "mmd", "antenna_correlation", "gain"):
        assert not report[f"downlink/{name}"]["within"], name
    assert report["cross/magnitude"]["value"] < 0.1
    copied = plausibility(real[0], training[0], real[1], training[1], training, bootstrap=5, generator=seeded())
    assert copied["downlink/nearest_neighbour"]["value"] == pytest.approx(0, abs=1e-2)
    assert not copied["downlink/nearest_neighbour"]["within"]


def test_report_looks_at_fading_without_the_geometry():
    """Other mean gains change the gain in dB but not the shape metrics."""
    (real, gains), (same, _) = states(100, seed=1), states(100, seed=2)
    stronger = LinkGains(**{name: 100 * tensor for name, tensor in gains.tensors().items()})
    moved = scale(whiten(same, states(100, seed=2)[1]), stronger)
    report = plausibility(real, moved, gains, stronger, bootstrap=5, generator=seeded())
    assert report["downlink/gain"]["value"] > 0.9
    assert report["downlink/magnitude"]["value"] < 0.1
    assert "downlink/nearest_neighbour" not in report


def test_samples_too_small_and_unknown_methods_are_refused():
    one, gains = states(1, seed=1)
    with pytest.raises(ValueError, match="2 states"):
        plausibility(one, one, gains, gains, generator=seeded())
    with pytest.raises(ValueError, match="rzf and wmmse"):
        sum_rates(one, "zf")


@pytest.mark.parametrize("metric", DISTANCES)
def test_two_silent_samples_do_not_differ(metric):
    silent = torch.zeros(20, 4, dtype=torch.complex64)
    assert metric(silent, silent) == 0
    assert neighbour_ratio(silent, silent, silent) == 1


def test_a_report_on_channels_without_self_interference_has_no_unknown_number():
    (real, gains), (made, _), training = states(20, seed=1), states(20, seed=2), states(20, seed=3)
    real, made, stored = (
        replace(one, self_interference=torch.zeros_like(one.self_interference)) for one in (real, made, training[0])
    )
    gains = replace(gains, self_interference=torch.zeros_like(gains.self_interference))
    report = plausibility(real, made, gains, gains, (stored, gains), bootstrap=3, generator=seeded())
    assert all(math.isfinite(entry["value"]) and math.isfinite(entry["chance"]) for entry in report.values())
    assert all(entry["within"] for name, entry in report.items() if name.startswith("self_interference"))

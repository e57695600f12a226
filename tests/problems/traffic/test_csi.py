"""What a base station makes of late and noisy estimates."""

from __future__ import annotations

import torch

from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.full_duplex.simulator import Cells, rates_of
from d2rl.problems.traffic.csi import ChannelPrediction
from d2rl.wireless import full_uplink_power, rzf
from d2rl.wireless.link_rates import squared_magnitude

CELL = FullDuplexConfig(
    transmit_antennas=3, receive_antennas=2, downlink_users=2, uplink_users=2, rician=3.0, speed=6.0, csi_error=0.1
)
DELAY = 2


def seen_and_true(config, delay, batch=6000):
    """Cells with their estimates, and the same cells some slots later."""
    cells, generator = Cells(config), torch.Generator().manual_seed(0)
    first = cells.reset(batch, generator)
    later = first
    for _ in range(delay):
        later = cells.advance(later, generator)[0]
    return cells, first, later


def test_a_prediction_misses_what_no_linear_estimate_knows_and_counts_it_as_noise():
    cells, first, later = seen_and_true(CELL, DELAY)
    predicted, gain = ChannelPrediction(cells, DELAY)(first), first.gains.downlink.unsqueeze(-1)
    # every user's scale is one over the amplitude of its noise; that of the cross channels tells it
    seen, true = (one.downlink / gain.sqrt() for one in (first.estimate, later.channels))
    scale = predicted.downlink / gain.sqrt()
    k = 10 ** (CELL.rician / 10)
    constant = cells.line_of_sight(first).downlink / gain.sqrt()
    variance, kept = 1 / (1 + k), (1 - CELL.csi_error) ** 0.5
    weight = cells.correlation**DELAY * kept * variance / (kept**2 * variance + CELL.csi_error)
    mean = constant + weight * (seen - kept * constant)
    missed = squared_magnitude(true - mean).mean()
    noise = squared_magnitude(mean / scale)  # 1 + what is missed, in units of thermal noise
    assert torch.allclose((noise - 1) / gain, missed.expand_as(noise), rtol=0.05)
    assert abs(((true - mean) * (seen - kept * constant).conj()).mean()) < 0.01  # nothing linear is left in it


def test_what_is_seen_without_error_of_users_who_stand_still_is_taken_as_it_is():
    still = FullDuplexConfig(speed=0.0)
    cells, first, _ = seen_and_true(still, 0, batch=3)
    for name, tensor in ChannelPrediction(cells, 5)(first).tensors().items():
        true = getattr(first.channels, name)  # between users powers alone matter
        assert torch.allclose(tensor, true.abs() + 0j if name == "cross" else true, rtol=1e-4), name


def test_rates_of_predictions_promise_less_than_those_of_late_channels():
    cells, first, later = seen_and_true(FullDuplexConfig(), DELAY, batch=200)
    predicted = ChannelPrediction(cells, DELAY)(first)
    decision = rzf(predicted), full_uplink_power(predicted)
    downlink = [rates_of(one, *decision)[..., :6].mean() for one in (later.channels, predicted, first.channels)]
    true, promised, believed = downlink
    assert promised < true + 0.5
    assert believed > true + 1

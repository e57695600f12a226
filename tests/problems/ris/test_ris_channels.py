"""Rates by way of a surface, against closed forms and a loop in double precision."""

from __future__ import annotations

import cmath
import math

import pytest
import torch

from d2rl.problems.ris.channels import SurfaceChannels, rate_pulls, unit_modulus, user_rates
from d2rl.wireless.fading import complex_normal


def draw(batch=3, users=2, elements=4, antennas=3, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return complex_normal((batch, *shape), generator, torch.device("cpu")).to(torch.complex128)

    channels = SurfaceChannels(normal(users, antennas), normal(elements, antennas), normal(users, elements))
    reflection = unit_modulus(normal(elements), normal(elements))
    precoder = normal(antennas, users)
    return channels, reflection, precoder / torch.linalg.matrix_norm(precoder, keepdim=True)


def rates_of_one_state(channels, reflection, precoder, state):
    """Python numbers alone: what each user receives of each beam, over the direct path and over every element."""
    (users, antennas), elements = channels.direct.shape[1:], reflection.shape[1]
    rates = []
    for k in range(users):
        received = []
        for j in range(users):
            total = 0j
            for t in range(antennas):
                path = channels.direct[state, k, t].item().conjugate()
                for n in range(elements):
                    onward = channels.reflected[state, k, n].item().conjugate()
                    path += onward * reflection[state, n].item() * channels.feed[state, n, t].item()
                total += path * precoder[state, t, j].item()
            received.append(abs(total) ** 2)
        rates.append(math.log2(1 + received[k] / (sum(received) - received[k] + 1)))
    return rates


def test_rates_equal_a_loop_over_paths():
    channels, reflection, precoder = draw()
    found = user_rates(channels, (reflection, precoder))
    for state in range(3):
        assert found[state].tolist() == pytest.approx(rates_of_one_state(channels, reflection, precoder, state))


def test_a_dark_surface_leaves_the_direct_path():
    channels, reflection, _ = draw()
    assert torch.equal(channels.effective(torch.zeros_like(reflection)).downlink, channels.direct)


def test_one_user_and_aligned_phases_add_up_all_amplitudes():
    channels, _, _ = draw(users=1, antennas=1)
    channels = SurfaceChannels(torch.zeros_like(channels.direct), channels.feed, channels.reflected)
    cascade = channels.reflected[:, 0].conj() * channels.feed[..., 0]
    aligned = unit_modulus(cascade.conj(), cascade)
    rate = user_rates(channels, (aligned, torch.ones(3, 1, 1, dtype=torch.complex128)))
    amplitude = (channels.reflected[:, 0].abs() * channels.feed[..., 0].abs()).sum(-1)
    assert torch.allclose(rate[:, 0], torch.log2(1 + amplitude.square()))


def test_pulls_are_the_gradient_of_the_rates():
    channels, reflection, precoder = draw()
    to_signal, to_interference = rate_pulls(channels, (reflection, precoder))
    variable = reflection.clone().requires_grad_()
    for user in range(2):
        rate = user_rates(channels, (variable, precoder))[:, user].sum()
        (gradient,) = torch.autograd.grad(rate, variable)  # 2 d/dv*, of log2
        expected = (to_signal - to_interference)[:, user] * 2 / math.log(2)
        assert torch.allclose(gradient, expected)


def test_phases_of_numbers_without_one_are_taken_from_elsewhere():
    value = torch.tensor([3 + 4j, 0, -2j], dtype=torch.complex64)
    otherwise = torch.full((3,), cmath.exp(1j), dtype=torch.complex64)
    expected = torch.tensor([0.6 + 0.8j, cmath.exp(1j), -1j], dtype=torch.complex64)
    assert torch.allclose(unit_modulus(value, otherwise), expected)
    variable = value.clone().requires_grad_()
    unit_modulus(variable, otherwise).real.sum().backward()
    assert bool(torch.view_as_real(variable.grad).isfinite().all())

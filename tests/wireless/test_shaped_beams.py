"""Beams and powers in closed form against the same formulas left to automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from conftest import draw_channels, problem_of
from torch import Tensor

from d2rl.wireless.heads import beam_basis
from d2rl.wireless.link_powers import link_powers
from d2rl.wireless.link_rates import link_rates
from d2rl.wireless.shaped_beams import shaped_beams


def plain_beams(basis: Tensor, strength: Tensor, amplitude: Tensor) -> Tensor:
    """The formula, written out."""
    system = torch.eye(basis.shape[-2]) + basis @ torch.diag_embed(strength).to(basis.dtype) @ basis.mH
    beams = torch.linalg.solve(system, basis[..., : amplitude.shape[-1]])
    return beams / torch.linalg.vector_norm(beams, dim=-2, keepdim=True) * amplitude.unsqueeze(-2)


@pytest.fixture
def numbers(channels, generator) -> tuple[Tensor, Tensor, Tensor]:
    """A basis, strengths over eight decades, and amplitudes."""
    strength = 10 ** (8 * torch.rand(16, 10, generator=generator, dtype=torch.float64) - 1)
    return beam_basis(channels), strength, torch.rand(16, 6, generator=generator, dtype=torch.float64)


def test_beams_and_their_gradients_are_those_of_the_formula(numbers, generator):
    towards = torch.randn(16, 8, 6, dtype=torch.complex128, generator=generator)

    def results(function) -> list[Tensor]:
        given = [tensor.clone().requires_grad_() for tensor in numbers]
        beams = function(*given)
        return [beams.detach(), *torch.autograd.grad((beams * towards.conj()).real.sum(), given)]

    torch.testing.assert_close(results(shaped_beams), results(plain_beams), rtol=1e-5, atol=1e-8)


def test_more_antennas_than_links_change_the_system_and_not_the_beams(generator):
    channels, _ = draw_channels(transmit_antennas=24, receive_antennas=24)
    strength = 10 ** (8 * torch.rand(16, 10, generator=generator, dtype=torch.float64) - 1)
    basis, amplitude = beam_basis(channels), torch.rand(16, 6, generator=generator, dtype=torch.float64)
    towards = torch.randn(16, 24, 6, dtype=torch.complex128, generator=generator)

    def results(function) -> list[Tensor]:
        given = [tensor.clone().requires_grad_() for tensor in (strength, amplitude)]
        beams = function(basis, *given)
        return [beams.detach(), *torch.autograd.grad((beams * towards.conj()).real.sum(), given)]

    torch.testing.assert_close(results(shaped_beams), results(plain_beams), rtol=1e-5, atol=1e-8)


def test_a_basis_that_no_action_changes_gets_no_gradient(numbers):
    basis, strength, amplitude = numbers[0], numbers[1].requires_grad_(), numbers[2]
    shaped_beams(basis, strength, amplitude).abs().sum().backward()
    assert basis.grad is None
    assert strength.grad.abs().sum() > 0


def test_the_gradient_of_a_view_points_where_the_powers_say(channels, generator):
    """The gradient of the rate that signal and disturbance give is that of the link rates themselves."""
    problem = problem_of(channels)
    head, basis = problem.head, beam_basis(channels)
    action = 2 * torch.rand(16, 20, generator=generator) - 1

    def gradient(rate) -> Tensor:
        given = action.clone().requires_grad_()
        return torch.autograd.grad(rate(*head.decode(channels, given, basis)).sum(), given)[0]

    def by_powers(precoder: Tensor, power: Tensor) -> Tensor:
        signal, disturbance = link_powers(channels, precoder, power)
        return torch.log2(1 + signal / disturbance)

    expected = gradient(lambda precoder, power: link_rates(channels, precoder, power))
    torch.testing.assert_close(gradient(by_powers), expected, rtol=2e-3, atol=2e-3)

"""Streams behind self-interference: a system of few beams says what that of many antennas says."""

from __future__ import annotations

import pytest
import torch
from conftest import draw_channels
from torch import Tensor

from d2rl.wireless.link_powers import link_powers
from d2rl.wireless.link_rates import link_rates, suppressed, whitened


def complex_numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("strength", [1.0, 1e3])
@pytest.mark.parametrize("beams", [2, 6, 16])
def test_whitened_streams_hold_up_where_nearly_all_is_suppressed(strength, beams):
    """Against the eigenvectors of the interference; one stream lies within it, two beams are nearly alike."""
    numbers = complex_numbers(8, 24, beams + 3)
    leakage, streams = strength * numbers[..., :beams], 1e5 * numbers[..., beams:]
    leakage[..., 0] = (1 + 1e-9) * leakage[..., 1]
    streams[..., 0] = leakage[..., 0] + leakage[..., 1]
    left, singular, right = torch.linalg.svd(leakage)
    seen = left.mH @ streams
    inverse = 1 / (1 + torch.nn.functional.pad(singular, (0, 24 - beams)).square())
    expected = seen.mH @ (seen * inverse.unsqueeze(-1))
    scale = expected.diagonal(dim1=-2, dim2=-1).real.sqrt()
    white, factor = whitened(streams, leakage)
    relative = (white.mH @ white - expected).abs() / (scale.unsqueeze(-1) * scale.unsqueeze(-2))
    assert relative.max() < 1e-5
    combined, leaked = suppressed(white, leakage, factor)
    kept = seen * inverse.unsqueeze(-1)
    torch.testing.assert_close(combined, left @ kept, rtol=0, atol=float(1e-9 * combined.abs().max()))
    reached = torch.diag_embed(singular).to(kept.dtype) @ right
    torch.testing.assert_close(leaked, kept[:, :beams].mH @ reached, rtol=0, atol=float(1e-5 * leaked.abs().max()))


def test_rates_and_gradients_of_many_antennas_are_those_of_the_textbook(generator):
    channels, _ = draw_channels(4, transmit_antennas=24, receive_antennas=24)
    exact = channels.double()
    beams = torch.randn(4, 24, 6, dtype=torch.complex128, generator=generator) / 12
    power = torch.rand(4, 4, dtype=torch.float64, generator=generator)

    def textbook(precoder: Tensor, power: Tensor) -> Tensor:
        leaked, streams = exact.self_interference @ precoder, exact.uplink.mT
        noise = torch.eye(24) + leaked @ leaked.mH
        gains = []
        for user in range(4):
            others = power.clone()
            others[:, user] = 0
            seen = noise + (streams * others.unsqueeze(-2)) @ streams.mH
            stream = streams[..., user : user + 1]
            gains.append(power[:, user] * (stream.mH @ torch.linalg.solve(seen, stream)).real.squeeze())
        return torch.log2(1 + torch.stack(gains, -1))

    def powers(precoder: Tensor, power: Tensor) -> Tensor:
        signal, disturbance = link_powers(exact, precoder, power)
        return torch.log2(1 + signal / disturbance)[:, 6:]

    def with_gradients(function) -> list[Tensor]:
        given = [beams.clone().requires_grad_(), power.clone().requires_grad_()]
        rates = function(*given)
        return [rates.detach(), *torch.autograd.grad(rates.sum(), given)]

    expected = with_gradients(textbook)
    torch.testing.assert_close(
        with_gradients(lambda *given: link_rates(exact, *given)[:, 6:]), expected, rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(with_gradients(powers), expected, rtol=1e-4, atol=1e-5)

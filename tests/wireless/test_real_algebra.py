"""Complex algebra in real arithmetic equals complex algebra."""

from __future__ import annotations

import pytest
import torch

from d2rl.wireless.real_algebra import (
    RealChannels,
    column_power,
    embed,
    magnitudes,
    normalized,
    pairs,
    solve,
    whiten,
)


def matrix(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.complex128, generator=generator)


def real(values: torch.Tensor) -> torch.Tensor:
    return embed(torch.view_as_real(values.resolve_conj()))


def test_real_forms_multiply_add_and_transpose_as_the_complex_matrices():
    a, b, c = matrix(2, 3, 5, seed=1), matrix(2, 5, 4, seed=2), matrix(2, 3, 4, seed=3)
    torch.testing.assert_close(real(a) @ real(b) + real(c), real(a @ b + c))
    torch.testing.assert_close(real(a).mT, real(a.mH))


def test_even_columns_hold_everything():
    a, b = matrix(2, 3, 5, seed=1), matrix(2, 5, 4, seed=2)
    half = real(a) @ real(b)[..., ::2]
    torch.testing.assert_close(torch.view_as_complex(pairs(half).contiguous()), a @ b)
    torch.testing.assert_close(magnitudes(half), (a @ b).abs().square())


def test_columns_have_the_norms_of_the_complex_columns_each_twice():
    a = matrix(2, 3, 5)
    a[:, :, 1] = 0
    power = a.abs().square().sum(-2)
    torch.testing.assert_close(column_power(real(a)), power.repeat_interleave(2, dim=-1))
    unit = column_power(normalized(real(a)))
    torch.testing.assert_close(unit, (power > 0).double().repeat_interleave(2, dim=-1))


def test_normalized_columns_are_exact_real_forms():
    noisy = real(matrix(2, 3, 4)) * (1 + 1e-6 * torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(5)))
    unit = normalized(noisy)
    assert torch.equal(unit[..., ::2, ::2], unit[..., 1::2, 1::2])
    assert torch.equal(unit[..., 1::2, ::2], -unit[..., ::2, 1::2])


def test_the_inverse_factor_of_a_system_whitens_it():
    vectors, right = matrix(4, 6, 3, seed=1), matrix(4, 6, 2, seed=2)
    system = vectors @ vectors.mH + torch.eye(6)
    expected = torch.linalg.solve(torch.linalg.cholesky(system), right)
    torch.testing.assert_close(whiten(real(system), real(right)), real(expected))


@pytest.mark.parametrize("strength", [1.0, 1e8])
def test_a_hermitian_system_is_solved(strength):
    vectors = matrix(4, 6, 3, seed=1) * strength**0.5
    system = vectors @ vectors.mH + torch.eye(6)
    right = matrix(4, 6, 2, seed=2)
    solution = solve(real(system), real(right))[..., ::2]
    expected = torch.linalg.solve(system, right)
    found = torch.view_as_complex(pairs(solution).contiguous())
    assert (found - expected).abs().max() < 1e-15 * 1e3 * strength


def test_real_channels_are_the_memory_of_the_complex_ones(make_channels):
    channels = make_channels(3, downlink_users=5, uplink_users=2, transmit_antennas=7, receive_antennas=4)
    parts = RealChannels.of(channels)
    for name in ("batch", "downlink_users", "uplink_users", "links", "transmit_antennas", "receive_antennas"):
        assert getattr(parts, name) == getattr(channels, name)
    for name, tensor in channels.tensors().items():
        assert torch.equal(torch.view_as_complex(parts.tensors()[name]), tensor)

"""Link rates: the one place where SINR is computed."""

from __future__ import annotations

import torch
from torch import Tensor

from d2rl.common.complex_pair import ComplexPair
from d2rl.common.within import within
from d2rl.wireless.channel_state import ChannelState

Decision = tuple[Tensor, Tensor]  # precoder [B, N_t, K_D], total power 1 at most; uplink power [B, K_U] in [0, 1]

FAINT_POWER = 1e-20  # added to every power: a silent user's rate stays 0 and keeps its gradient, h^H Q^-1 h / ln 2


def link_rates(channels: ChannelState, precoder: Tensor, uplink_power: Tensor) -> Tensor:
    r"""Spectral efficiency of every link, with MMSE combining at the base station.

    .. math::
        \gamma_j = \frac{|g_j^H w_j|^2}{\sum_{l \ne j} |g_j^H w_l|^2 + \sum_k p_k |f_{kj}|^2 + 1}

        1 + \gamma_k = 1 / [(I + X^H C^{-1} X)^{-1}]_{kk}, \quad
        C = I + H_S W W^H H_S^H, \quad x_k = \sqrt{p_k} h_k

    The uplink form is the textbook MMSE receiver (Verdu, *Multiuser Detection*, ch. 6). It never
    subtracts nearly equal numbers, so it holds up at 70 dB of SINR; the algebra runs in double.

    :param channels: noise-normalised channels, batch of B states
    :param precoder: [B, N_t, K_D], complex; columns w_j, total power at most 1
    :param uplink_power: [B, K_U], fraction of the maximum power, in [0, 1]
    :returns: [B, K_D + K_U] in bit/s/Hz, downlink links first
    :raises ValueError: if the shapes do not fit ``channels``
    """
    b, n_t, k_d, k_u = channels.batch, channels.transmit_antennas, channels.downlink_users, channels.uplink_users
    if precoder.shape != (b, n_t, k_d) or uplink_power.shape != (b, k_u):
        raise ValueError(
            f"precoder {tuple(precoder.shape)} and uplink_power {tuple(uplink_power.shape)} do not fit "
            f"channels that ask for {(b, n_t, k_d)} and {(b, k_u)}"
        )
    downlink = torch.log2(1 + downlink_sinr(channels, precoder, uplink_power))
    uplink = -torch.log2(uplink_error(channels, precoder, uplink_power)).to(downlink.dtype)
    return torch.cat([downlink, uplink], dim=-1)


def downlink_powers(channels: ChannelState, precoder: Tensor, uplink_power: Tensor) -> tuple[Tensor, Tensor]:
    """What every downlink user receives: its signal, and interference plus noise, each [B, K_D]."""
    received = squared_magnitude(channels.downlink.conj() @ precoder)
    return told_apart(received, own_beams(received), squared_magnitude(channels.cross), uplink_power)


def own_beams(received: Tensor) -> Tensor:
    """Which of all beams at every user are meant for it, [K_D, K_D] bool."""
    return torch.eye(received.shape[-1], dtype=torch.bool, device=received.device)


def told_apart(received: Tensor, own: Tensor, crossed: Tensor, uplink_power: Tensor) -> tuple[Tensor, Tensor]:
    """Signal, and interference plus noise, of every downlink user, each [B, K_D].

    :param received: [B, K_D, K_D], power of every beam at every user
    :param own: of :func:`own_beams`
    :param crossed: [B, K_U, K_D], gains from uplink to downlink users
    :param uplink_power: [B, K_U]
    """
    others = received * ~own
    cross = (uplink_power.unsqueeze(-2) @ crossed).squeeze(-2)
    return received.diagonal(dim1=-2, dim2=-1), others.sum(-1) + cross + 1


def downlink_sinr(channels: ChannelState, precoder: Tensor, uplink_power: Tensor) -> Tensor:
    """SINR_D of :func:`link_rates`, [B, K_D]."""
    signal, disturbance = downlink_powers(channels, precoder, uplink_power)
    return signal / disturbance


def uplink_error(channels: ChannelState, precoder: Tensor, uplink_power: Tensor) -> Tensor:
    """Mean squared error 1 / (1 + SINR_U) of the MMSE combiner, [B, K_U], in double."""
    return squared_magnitude(_combined(channels, precoder, uplink_power)[1]).sum(-2)


def squared_magnitude(values: Tensor) -> Tensor:
    """|x|^2 with a gradient that is finite at zero.

    :param values: of any shape, complex
    """
    return values.squared_magnitude() if isinstance(values, ComplexPair) else (values * values.conj()).real


def inner(left: Tensor, right: Tensor) -> Tensor:
    """Re(a^H b) of every column a of the one and b of the other, [..., n, m] both: [..., m]."""
    return left.inner(right) if isinstance(left, ComplexPair) else (left.conj() * right).real.sum(-2)


def column_powers(values: Tensor) -> Tensor:
    """||x||^2 of every column, [..., m]."""
    return values.inner(values) if isinstance(values, ComplexPair) else squared_magnitude(values).sum(-2)


def column_norms(values: Tensor) -> Tensor:
    """||x|| of every column, [..., 1, m], as a divisor: above 0 for one that is zero."""
    return squared_magnitude(values).sum(-2, keepdim=True).clamp_min(1e-30).sqrt()


def unit_columns(values: Tensor) -> Tensor:
    """Columns scaled to norm 1; one that is zero stays so."""
    if isinstance(values, ComplexPair):  # both columns of a block have its norm
        return ComplexPair(matrix=unit_columns(values.matrix))
    return values / column_norms(values)


def real_diagonal(matrix: Tensor) -> Tensor:
    """The real part of the diagonal of square matrices, [..., n]."""
    return matrix.real_diagonal() if isinstance(matrix, ComplexPair) else matrix.diagonal(dim1=-2, dim2=-1).real


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """A^-1 B of matrices that have an inverse; ``torch.linalg.solve`` would wait for the device to say that they do.

    :param matrix: A, [..., n, n]
    :param right: B, [..., n, m]
    """
    return torch.linalg.solve_ex(matrix, right)[0]


def add_noise(gram: Tensor, level: Tensor | float = 1.0) -> Tensor:
    """``gram`` + ``level`` I; where rounding would hide that, enough in its place for a Cholesky factor.

    :param gram: [..., n, n]
    :param level: a number, or [..., 1, 1]
    """
    if isinstance(gram, ComplexPair):
        return ComplexPair(matrix=add_noise(gram.matrix, level))
    identity = identity_like(gram)
    hidden = gram.real * (gram.shape[-1] * torch.finfo(gram.dtype).eps * identity)
    return gram + torch.maximum(hidden, level * identity)


def add_identity(gram: Tensor, level: Tensor | float = 1.0) -> Tensor:
    """``gram`` + ``level`` I.

    :param gram: [..., n, n]
    :param level: a number, or [..., 1, 1]
    """
    if isinstance(gram, ComplexPair):
        return ComplexPair(matrix=add_identity(gram.matrix, level))
    return gram + level * identity_like(gram)


def identity_like(matrix: Tensor) -> Tensor:
    """The real identity with as many rows as ``matrix`` has columns."""
    return torch.eye(matrix.shape[-1], dtype=matrix.real.dtype, device=matrix.device)


def far_fewer(columns: int, antennas: int) -> bool:
    """Whether the quicker system is that of a matrix's columns, and not of its rows, the antennas."""
    return 3 * columns <= 2 * antennas


def whitened(streams: Tensor, leakage: Tensor) -> tuple[Tensor, Tensor]:
    r"""Y with Y^H Y = X^H C^-1 X where C = I + L L^H: [B, N_r, m], or [B, N_r + n, m] where beams are far fewer.

    Then, with :math:`U = (I + L^H L)^{-1} L^H X` and :math:`Z = X - L U = C^{-1} X`, it is :math:`Y = [Z; U]`, since
    :math:`L^H Z = U`: a sum of squares, which loses nothing where nearly all of X is suppressed.

    :param streams: X, [B, N_r, m], in double
    :param leakage: L, [B, N_r, n], in double
    :returns: Y; the Cholesky factor of the system
    """
    if isinstance(leakage, ComplexPair) or not far_fewer(leakage.shape[-1], leakage.shape[-2]):
        factor = _factor(leakage @ leakage.mH)
        return torch.linalg.solve_triangular(factor, streams, upper=False), factor
    factor = _factor(leakage.mH @ leakage)
    seen = torch.cholesky_solve(leakage.mH @ streams, factor)
    return torch.cat([streams - leakage @ seen, seen], dim=-2), factor


def suppressed(white: Tensor, leakage: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """C^-1 X and X^H C^-1 L, of what :func:`whitened` gave: [B, N_r, m] and [B, m, n]."""
    antennas = leakage.shape[-2]
    if far_fewer(leakage.shape[-1], antennas):
        return white[..., :antennas, :], white[..., antennas:, :].mH
    combined = torch.linalg.solve_triangular(factor.mH, white, upper=True)
    return combined, combined.mH @ leakage


def _combined(channels: ChannelState, precoder: Tensor, uplink_power: Tensor) -> tuple[Tensor, Tensor]:
    """Streams Y of :func:`whitened`, and F^-1 [B, K_U, K_U] with F F^H = I + Y^H Y, in double."""
    leakage = channels.self_interference.to(torch.complex128) @ precoder.to(torch.complex128)
    amplitude = (within(uplink_power.double(), low=0) + FAINT_POWER).sqrt().unsqueeze(-2)
    streams = channels.uplink.to(torch.complex128).mT * amplitude
    white = whitened(streams, leakage)[0]
    factor = _factor(white.mH @ white)
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return white, torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)


def _factor(gram: Tensor) -> Tensor:
    """Cholesky factor of gram + I; NaN for what is not finite, where ``cholesky`` would give up on the whole batch."""
    return torch.linalg.cholesky_ex(add_noise(gram))[0]

r"""Complex linear algebra in real arithmetic, for runtimes without complex numbers and without a solver.

A complex R x C matrix stands as the real 2R x 2C matrix of the blocks [[re, -im], [im, re]]. Products
and sums of complex matrices are then products and sums of real ones, and the conjugate transpose is the
plain transpose. The even columns of such a matrix already hold all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from d2rl.wireless.channel_state import ChannelState


@dataclass(frozen=True)
class RealChannels(ChannelState):
    """Channels with the real and the imaginary part in a last dimension of 2, as complex numbers lie in memory.

    :param downlink: [B, K_D, N_t, 2]      :param uplink: [B, K_U, N_r, 2]
    :param cross: [B, K_U, K_D, 2]      :param self_interference: [B, N_r, N_t, 2]
    """

    @classmethod
    def of(cls, channels: ChannelState) -> RealChannels:
        """The same channels without complex numbers."""
        return cls(*(torch.view_as_real(tensor.resolve_conj()) for tensor in channels.tensors().values()))

    @property
    def downlink_users(self) -> int:
        """K_D."""
        return self.downlink.shape[-3]

    @property
    def uplink_users(self) -> int:
        """K_U."""
        return self.uplink.shape[-3]

    @property
    def transmit_antennas(self) -> int:
        """N_t."""
        return self.downlink.shape[-2]

    @property
    def receive_antennas(self) -> int:
        """N_r."""
        return self.uplink.shape[-2]


def embed(values: Tensor) -> Tensor:
    """Real matrices [..., 2R, 2C] of complex ones [..., R, C, 2]."""
    block = torch.tensor([[1.0, 0, 0, 1], [0, -1, 1, 0]], dtype=values.dtype, device=values.device)
    blocks = (values @ block).unflatten(-1, (2, 2)).transpose(-3, -2)
    return blocks.flatten(-2).flatten(-3, -2)


def pairs(even_columns: Tensor) -> Tensor:
    """Complex matrices [..., R, C, 2] from the even columns [..., 2R, C] of real ones."""
    return even_columns.unflatten(-2, (-1, 2)).transpose(-2, -1)


def magnitudes(even_columns: Tensor) -> Tensor:
    """|x|^2 of every element, [..., R, C], from the even columns [..., 2R, C]."""
    return even_columns.square().unflatten(-2, (-1, 2)).sum(-2)


def column_power(matrix: Tensor) -> Tensor:
    """Squared norm of every column, [..., C] from [..., R, C]."""
    return matrix.square().sum(-2)


def normalized(matrix: Tensor) -> Tensor:
    """Columns scaled to norm 1; zero columns stay zero.

    Made anew of its even columns: where rounding makes the odd ones differ, strong directions would spoil a system.
    """
    even = matrix[..., ::2]
    return embed(pairs(even / column_power(even).clamp_min(1e-30).sqrt().unsqueeze(-2)))


def solve(system: Tensor, right: Tensor) -> Tensor:
    """X of system X = right, for real forms of Hermitian positive definite matrices: L^-H (L^-1 right).

    :param system: [..., 2n, 2n]
    :param right: [..., 2n, 2m], with the same leading dimensions
    """
    identity = identity_like(system).expand_as(system)
    whitened = whiten(system, torch.cat([right, identity], dim=-1))
    return whitened[..., right.shape[-1] :].mT @ whitened[..., : right.shape[-1]]


@torch.library.custom_op("d2rl::whiten", mutates_args=())
def whiten(system: Tensor, right: Tensor) -> Tensor:
    """L^-1 right of real forms, where the system is L L^H with a lower triangular L.

    One operator, so that an exporter may write its own elimination for it.

    :param system: [..., 2n, 2n], Hermitian and positive definite
    :param right: [..., 2n, 2m], with the same leading dimensions
    """
    return torch.linalg.solve_triangular(torch.linalg.cholesky_ex(system)[0], right, upper=False)


@whiten.register_fake
def _(system: Tensor, right: Tensor) -> Tensor:
    return torch.empty_like(right)


def identity_like(system: Tensor) -> Tensor:
    """Identity of the size of square matrices."""
    return torch.eye(system.shape[-1], dtype=system.dtype, device=system.device)

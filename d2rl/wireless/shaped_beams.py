"""Beams of the shape that every stationary point of the sum rate has, with a gradient in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2rl.wireless.link_rates import add_identity, column_norms, far_fewer, solve, unit_columns


def shaped_beams(basis: Tensor, strength: Tensor, amplitude: Tensor) -> Tensor:
    """Columns of (I + D diag(strength) D^H)^-1 D_down, scaled to norms ``amplitude``: [B, N_t, K_D], complex128.

    :param basis: D, unit directions [B, N_t, K_D + K_U], those of the downlink users first
    :param strength: [B, K_D + K_U], above 0, float64: in single precision 1 + strength would lose the 1
    :param amplitude: [B, K_D]
    """
    basis, strength, amplitude = basis.to(torch.complex128), strength.double(), amplitude.double()
    if isinstance(basis, Tensor):
        by_links = far_fewer(basis.shape[-1], basis.shape[-2]) and not basis.requires_grad
        return (BeamsByLinks if by_links else ShapedBeams).apply(basis, strength, amplitude)
    users, scaled = amplitude.shape[-1], basis * strength.sqrt().unsqueeze(-2)  # a pair, which needs no gradient
    if basis.shape[-2] <= basis.shape[-1]:
        shape = solve(add_identity(scaled @ scaled.mH), basis[..., :users])
    else:  # (I + B B^H)^-1 B = B (I + B^H B)^-1
        shape = scaled @ torch.linalg.inv_ex(add_identity(scaled.mH @ scaled))[0][..., :users]
    return unit_columns(shape) * amplitude.unsqueeze(-2)


class ShapedBeams(torch.autograd.Function):
    r"""The beams of :func:`shaped_beams`, whose operators and whose gradient's are as few as can be.

    With :math:`A = I + D S D^H`, :math:`Z = A^{-1} D_{down}` and a gradient :math:`G` of :math:`Z`: that of
    :math:`A` is :math:`-Y Z^H` with :math:`Y = A^{-1} G`, and that of strength l :math:`-\Re (D^H Y Z^H D)_{ll}`.
    """

    @staticmethod
    def forward(ctx: Any, basis: Tensor, strength: Tensor, amplitude: Tensor) -> Tensor:
        """The beams; a factorisation of Cholesky for each state."""
        users = amplitude.shape[-1]
        system = (basis * strength.unsqueeze(-2)) @ basis.mH
        torch.view_as_real(system)[..., 0].diagonal(dim1=-2, dim2=-1).add_(1)
        factor = torch.linalg.cholesky_ex(system)[0]
        half = torch.linalg.solve_triangular(factor, basis[..., :users], upper=False)
        shape = torch.linalg.solve_triangular(factor.mH, half, upper=True)
        norm = column_norms(shape)
        direction = shape / norm
        ctx.save_for_backward(basis, strength, amplitude, factor, shape, direction, norm)
        return direction * amplitude.unsqueeze(-2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of strength and amplitude, and of the basis where it depends on the action."""
        basis, strength, amplitude, factor, shape, direction, norm = ctx.saved_tensors
        users = amplitude.shape[-1]
        across, along = _split(gradient, direction, amplitude, norm)
        half = torch.linalg.solve_triangular(factor, across, upper=False)
        solved = torch.linalg.solve_triangular(factor.mH, half, upper=True)
        seen = basis.mH @ torch.cat([solved, shape], dim=-1)
        by_strength = -(seen[..., :users].conj() * seen[..., users:]).real.sum(-1)
        by_basis = None
        if ctx.needs_input_grad[0]:
            outer = solved @ shape.mH
            by_basis = -(outer + outer.mH) @ (basis * strength.unsqueeze(-2))
            by_basis[..., :users] += solved
        return by_basis, by_strength, along


class BeamsByLinks(torch.autograd.Function):
    r"""The same beams by a system of the links, where these are far fewer than the antennas.

    With :math:`R = S^{1/2}` and :math:`M = I + R D^H D R`: :math:`Z = D R M^{-1} R^{-1} E`, where :math:`E` picks the
    downlink, and :math:`D^H A^{-1} G = R^{-1} M^{-1} R D^H G`. A gradient of :math:`D` would take :math:`A^{-1} G`
    itself, a difference of nearly equal numbers.
    """

    @staticmethod
    def forward(ctx: Any, basis: Tensor, strength: Tensor, amplitude: Tensor) -> Tensor:
        """The beams; a factorisation of Cholesky for each state."""
        links, users = strength.shape[-1], amplitude.shape[-1]
        root = strength.sqrt().unsqueeze(-1)
        scaled = basis * root.mT
        factor = torch.linalg.cholesky_ex(add_identity(scaled.mH @ scaled))[0]
        chosen = torch.eye(links, users, dtype=basis.dtype, device=basis.device).expand(*strength.shape, users)
        shape = scaled @ torch.cholesky_solve(chosen / root, factor)
        norm = column_norms(shape)
        direction = shape / norm
        ctx.save_for_backward(basis, root, amplitude, factor, shape, direction, norm)
        return direction * amplitude.unsqueeze(-2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of strength and amplitude."""
        basis, root, amplitude, factor, shape, direction, norm = ctx.saved_tensors
        users = amplitude.shape[-1]
        across, along = _split(gradient, direction, amplitude, norm)
        seen = basis.mH @ torch.cat([across, shape], dim=-1)
        solved = torch.cholesky_solve(root * seen[..., :users], factor) / root
        return None, -(solved.conj() * seen[..., users:]).real.sum(-1), along


def _split(gradient: Tensor, direction: Tensor, amplitude: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of beams before they were scaled, [B, N_t, K_D], and that of amplitudes, [B, K_D]."""
    along = (direction.conj() * gradient).real.sum(-2, keepdim=True)
    return (gradient - direction * along) * (amplitude.unsqueeze(-2) / norm), along.squeeze(-2)

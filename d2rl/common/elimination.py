"""Gaussian elimination as one operator, for which an exporter may write its own."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("d2rl::eliminate", mutates_args=())
def eliminate(system: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """L^-1 [system, right] and D^-1 L^-1 [system, right], [..., n, n + m], of L D L^T = system with unit triangular L.

    :param system: [..., n, n], symmetric and positive definite
    :param right: [..., n, m], with the same leading dimensions
    """
    factor = torch.linalg.cholesky_ex(system)[0]
    whitened = torch.linalg.solve_triangular(factor, torch.cat([system, right], dim=-1), upper=False)
    roots = factor.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    return whitened * roots, whitened / roots


@eliminate.register_fake
def _(system: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.cat([system, right], dim=-1)
    return torch.empty_like(wide), torch.empty_like(wide)

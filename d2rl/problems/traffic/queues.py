"""First-in-first-out queues as bits by age, batched: [B, K, A], the oldest first.

Bin A - 1 holds what arrived last, of age 0; bin 0 what is of age A - 1 or older.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

DUST = 1e-4  # bit/s/Hz-slots: what rounding leaves of a bin that was served counts as nothing


def ages(bins: int, device: torch.device) -> Tensor:
    """Slots that the bits of each bin have waited, [A]."""
    return torch.arange(bins - 1, -1, -1, device=device)


def serve(bits: Tensor, sent: Tensor) -> tuple[Tensor, Tensor]:
    """Take what is sent from the queues, the oldest first.

    :param bits: [B, K, A]      :param sent: [B, K], at most what waits counts
    :returns: what remains, and what was served, both by age [B, K, A]
    """
    remaining = (bits.cumsum(-1) - sent.unsqueeze(-1)).clamp_min(0).minimum(bits)
    return remaining, bits - remaining


def expires(bins: int, deadlines: Tensor) -> Tensor:
    """Which bits are dropped unless they are served now, [K, A] bool.

    :param deadlines: [K], slots; 1: a bit must be served in the first slot after its arrival
    """
    return ages(bins, deadlines.device) >= deadlines.unsqueeze(-1) - 1


def grow_older(bits: Tensor, arrived: Tensor) -> Tensor:
    """Queues one slot later: all bits are one slot older, and those that arrived are of age 0.

    :param arrived: [B, K]
    """
    oldest = bits[..., :1] + bits[..., 1:2]
    return torch.cat([oldest, bits[..., 2:], arrived.unsqueeze(-1)], dim=-1)


def head_of_line(bits: Tensor) -> Tensor:
    """Slots that the oldest bit of each queue has waited, [B, K]; 0 of an empty one."""
    return (ages(bits.shape[-1], bits.device) * (bits > DUST)).amax(-1).to(bits.dtype)


def arrived_only(arrived: Tensor, bins: int) -> Tensor:
    """Queues that hold what arrived in the latest slot and nothing else."""
    return F.pad(arrived.unsqueeze(-1), (bins - 1, 0))

"""Learning rates that a captured step can follow."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def scale_rates(optimizers: Iterable[torch.optim.Optimizer], factor: float, device: torch.device | None) -> None:
    """Set learning rates to a part of those that the optimizers were made with.

    :param factor: the part
    :param device: keeps them as tensors on such a device, float32 where they were none, whose addresses stay, so that
        a captured step sees the change; None: as numbers. What a checkpoint brought may be either.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            before, rate = group["lr"], optimizer.defaults["lr"] * factor  # groups may be a checkpoint's
            if device is None:
                group["lr"] = rate
            elif isinstance(before, Tensor) and before.device.type == device.type:
                before.fill_(rate)
            else:
                group["lr"] = torch.full((), rate, dtype=torch.float32, device=device)

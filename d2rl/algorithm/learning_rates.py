"""How far the schedules of training are, and learning rates that a captured step can follow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """The share of training that is done, by which exploration noise and learning rates fall.

    :param planned: updates of the whole training
    :param updates: those made when this plan was made
    :param share: reached by then, in [0, 1]
    """

    planned: int
    updates: int = 0
    share: float = 0.0

    def at(self, updates: int) -> float:
        """The share after so many updates, in [0, 1]."""
        left = self.planned - self.updates
        return min(1.0, self.share + (1 - self.share) * (updates - self.updates) / left) if left > 0 else 1.0

    def replanned(self, planned: int, updates: int) -> Schedule:
        """The schedule of another length that goes on from the share after ``updates``."""
        return self if planned == self.planned else Schedule(planned, updates, self.at(updates))


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

"""Drawn states as those of one site: users who stay where they are, while fading changes."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from d2rl.problems.full_duplex.simulator import CellState
from d2rl.wireless.fading import scale, whiten


def at_one_site(state: CellState) -> CellState:
    """The states with mean gains of the first one; what is drawn of small-scale fading stays."""
    gains = state.gains.map(first_of_all)
    return replace(state, channels=scale(whiten(state.channels, state.gains), gains), gains=gains)


def first_of_all(rows: Tensor) -> Tensor:
    """Every row as the first one."""
    return rows[:1].expand_as(rows).contiguous()


def mean_of_all(rows: Tensor) -> Tensor:
    """Every row as the mean of all."""
    return rows.mean(0, keepdim=True).expand_as(rows).contiguous()

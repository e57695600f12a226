"""SENPNN's weights in checkpoints of agents that have none, or one of other sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from d2rl.common.notices import notice_once

PREFIX = "senpnn."  # the names of its weights begin so


def fits_state_explorer(explorer: nn.Module | None, weights: Mapping[str, Tensor]) -> bool:
    """Whether weights of an agent hold a SENPNN like this one; says so where it is of another kind."""
    if explorer is None or not holds_state_explorer(weights):
        return False
    own = {name: tensor.shape for name, tensor in explorer.state_dict(prefix=PREFIX).items()}
    stored = {name: tensor.shape for name, tensor in weights.items() if name.startswith(PREFIX)}
    if own != stored:
        notice_once("the SENPNN of the checkpoint is of another version or of other sizes: it begins anew.")
    return own == stored


def with_own_state_explorer(explorer: nn.Module | None, weights: Mapping[str, Any], keep: bool) -> dict[str, Any]:
    """Weights of another agent for one with this SENPNN, or with none.

    :param keep: SENPNN's weights among them, else its own stay
    """
    if explorer is not None and keep:
        return dict(weights)
    others = {name: value for name, value in weights.items() if not name.startswith(PREFIX)}
    return others if explorer is None else others | explorer.state_dict(prefix=PREFIX)


def holds_state_explorer(names: Iterable[str]) -> bool:
    """Whether SENPNN's weights are among these."""
    return any(name.startswith(PREFIX) for name in names)

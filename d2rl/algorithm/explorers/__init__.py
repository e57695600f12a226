"""The three diffusion explorers; none knows of the others.

Each is built by ``build(config, problem)``. One of the reader's own takes the place of an explorer by
``action.explorer=MODULE:CLASS``, ``reward.explorer=...`` or ``state.explorer=...``.
"""

from __future__ import annotations

from typing import Any

from d2rl.algorithm.explorers.action import AENPNN
from d2rl.algorithm.explorers.reward import RENPNN
from d2rl.algorithm.explorers.state import SENPNN
from d2rl.common.imports import named_class
from d2rl.config.defaults import RunConfig

EXPLORERS = {"aenpnn": AENPNN, "renpnn": RENPNN, "senpnn": SENPNN}


def explorer_class(config: RunConfig, stage: str) -> Any:
    """The class that explores in a stage.

    :param stage: ``action``, ``reward`` or ``state``
    :raises ConfigError: there is none of its name
    """
    return named_class(getattr(config, stage).explorer, EXPLORERS, f"{stage}.explorer")


__all__ = ["AENPNN", "EXPLORERS", "RENPNN", "SENPNN", "explorer_class"]

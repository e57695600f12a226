"""The three diffusion explorers; none knows of the others.

Each is built by ``build(config, problem)``. One of the reader's own takes the place of an explorer by
``action.explorer=MODULE:CLASS``, ``reward.explorer=...`` or ``state.explorer=...``.
"""

from __future__ import annotations

from typing import Any

from d2rl.algorithm.explorers.action import AENPNN
from d2rl.algorithm.explorers.controls import Gaussian, Mix, Noise, Turn
from d2rl.algorithm.explorers.regression import RegressedRewards
from d2rl.algorithm.explorers.reward import RENPNN
from d2rl.algorithm.explorers.split import SplitRENPNN
from d2rl.algorithm.explorers.state import SENPNN
from d2rl.algorithm.reports import REGRESSION, splits_reports
from d2rl.common.imports import named_class
from d2rl.config.defaults import RunConfig
from d2rl.problems.base import Problem

CONTROLS = {"gaussian": Gaussian, "noise": Noise, "mix": Mix, "turn": Turn}
EXPLORERS = {"aenpnn": AENPNN, "renpnn": RENPNN, REGRESSION: RegressedRewards, "senpnn": SENPNN, **CONTROLS}
SPLITTERS = ("renpnn", REGRESSION)


def explorer_class(config: RunConfig, stage: str) -> Any:
    """The class that explores in a stage.

    :param stage: ``action``, ``reward`` or ``state``
    :raises ConfigError: there is none of its name
    """
    return named_class(getattr(config, stage).explorer, EXPLORERS, f"{stage}.explorer")


def reward_explorer(config: RunConfig, problem: Problem) -> Any:
    """RENPNN, for rewards that are measured or for those that are told as sums.

    :raises ConfigError: there is none of the name
    """
    own = splits_reports(config, problem) and config.reward.explorer in SPLITTERS
    return (SplitRENPNN if own else explorer_class(config, "reward")).build(config, problem)


__all__ = [
    "AENPNN",
    "EXPLORERS",
    "RENPNN",
    "SENPNN",
    "RegressedRewards",
    "SplitRENPNN",
    "explorer_class",
    "reward_explorer",
]

"""What an agent trains in: problems under way, and the replay of their transitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from d2rl.algorithm.replay import ReplayBuffer
from d2rl.algorithm.returns import ReturnWindow
from d2rl.config.defaults import RunConfig
from d2rl.problems.base import Problem, Simulation


class World(Simulation):
    """States side by side and what was seen of them; one training step stays in one world.

    :param config: of replay and returns; the other arguments are those of :class:`Simulation`
    """

    def __init__(self, config: RunConfig, *simulation: Any):
        super().__init__(*simulation)
        self.replay = ReplayBuffer(config.ddpg.replay)
        self.returns = ReturnWindow.of(config, self.problem)
        self.noise: Tensor | None = None  # of the exploration in the latest slot, where it is correlated

    def correlated(self, draw: Tensor, correlation: float) -> Tensor:
        """White noise of unit deviation as noise that is correlated with that of the slot before."""
        if self.noise is not None:
            draw = correlation * self.noise + (1 - correlation**2) ** 0.5 * draw
        self.noise = draw
        return draw

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly from here, as plain containers."""
        own = {"replay": self.replay.state_dict(), "returns": self.returns.state_dict(), "noise": self.noise}
        return {**super().state_dict(), **own}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from a saved world."""
        super().load_state_dict(saved)
        self.replay.load_state_dict(saved["replay"], self.device)
        self.returns.load_state_dict(saved.get("returns", []))
        noise = saved.get("noise")
        self.noise = None if noise is None else noise.to(self.device)


def make_worlds(
    problems: Sequence[Problem], config: RunConfig, device: str | torch.device = "cpu", branch: str = ""
) -> list[World]:
    """One world for each problem, in the order of visits.

    :param branch: of the random numbers, for one of several processes
    """
    worlds = []
    for index, problem in enumerate(problems):
        name = " ".join(filter(None, [branch, f"load {index}" if index else ""]))
        worlds.append(World(config, problem, config.trainer.num_envs, config.seed, device, name))
    return worlds

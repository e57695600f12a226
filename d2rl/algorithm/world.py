"""What an agent trains in: problems under way, and the replay of their transitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from d2rl.algorithm.replay import ReplayBuffer
from d2rl.algorithm.reports import ReportWindows, splits_reports
from d2rl.algorithm.returns import ReturnWindow
from d2rl.config.defaults import RunConfig
from d2rl.problems.base import Problem, Simulation, Step, Transition


class World(Simulation):
    """States side by side and what was seen of them; one training step stays in one world.

    :param config: of replay and returns; the other arguments are those of :class:`Simulation`
    """

    def __init__(self, config: RunConfig, *simulation: Any):
        super().__init__(*simulation)
        self.replay = ReplayBuffer(config.ddpg.replay)
        self.returns = ReturnWindow.of(config, self.problem)
        slots = getattr(self.problem, "report_slots", 1)
        splits = splits_reports(config, self.problem)
        self.windows = ReportWindows(self.replay, slots, self.batch) if splits else None
        self.noise: Tensor | None = None  # of the exploration in the latest slot, where it is correlated

    @property
    def ready(self) -> bool:
        """Whether there is something to learn from."""
        return self.replay.ready if self.windows is None else self.windows.ready

    def remember(self, transition: Transition, step: Step) -> None:
        """Store the slot, or the one of which all is known by now."""
        complete = self.returns.add(transition, step)
        if complete is not None:
            self.replay.add(complete)
        if self.windows is not None:
            self.windows.add(step)

    def correlated(self, draw: Tensor, correlation: float) -> Tensor:
        """White noise of unit deviation as noise that is correlated with that of the slot before.

        :param draw: [B, M, size], N(0, 1)
        :param correlation: of two slots in a row, in [0, 1)
        """
        if self.noise is not None:
            draw = correlation * self.noise + (1 - correlation**2) ** 0.5 * draw
        self.noise = draw
        return draw

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly from here, as plain containers."""
        own = {"replay": self.replay.state_dict(), "returns": self.returns.state_dict(), "noise": self.noise}
        if self.windows is not None:
            own["windows"] = self.windows.state_dict()
        return {**super().state_dict(), **own}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from a saved world."""
        super().load_state_dict(saved)
        self.replay.load_state_dict(saved["replay"], self.device)
        self.returns.load_state_dict(saved["returns"])
        if self.windows is not None:
            self.windows.load_state_dict(saved["windows"])
        self.noise = None if saved["noise"] is None else saved["noise"].to(self.device)


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

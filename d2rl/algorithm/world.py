"""What an agent trains in: the cells of one load, and the replay of their transitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from d2rl.algorithm.replay import ReplayBuffer
from d2rl.config.defaults import Config
from d2rl.problems.full_duplex.cell_sizes import cells_of
from d2rl.problems.full_duplex.simulator import FullDuplexEnv


@dataclass
class World:
    """Cells side by side and what was seen of them; one training step stays in one world."""

    env: FullDuplexEnv
    replay: ReplayBuffer

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly from here, as plain containers."""
        return {"env": self.env.state_dict(), "replay": self.replay.state_dict()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from a saved world."""
        self.env.load_state_dict(saved["env"])
        self.replay.load_state_dict(saved["replay"], self.env.device)


def make_worlds(config: Config, device: str | torch.device = "cpu", branch: str = "") -> list[World]:
    """One world for the scenario's own load, then one for each of ``scenario.loads``, in the order of visits.

    :param branch: of the random numbers, for one of several processes
    """
    worlds: list[World] = []
    cells = cells_of(config.scenario)
    if config.scenario.channel_bank is not None:
        cells = cells[:1]  # a bank is of one load: a policy that was trained on several may decide there
    for cell in cells:
        env = FullDuplexEnv(cell, config.trainer.num_envs, config.seed, device)
        if name := " ".join(filter(None, [branch, f"load {len(worlds)}" if worlds else ""])):
            env.branch(name)
        worlds.append(World(env, ReplayBuffer(config.ddpg.replay)))
    return worlds

"""The full-duplex cell as a batched environment that holds its own state."""

from __future__ import annotations

import torch
from torch import Tensor

from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.base import Simulation
from d2rl.problems.full_duplex.problem import FullDuplexProblem
from d2rl.problems.full_duplex.simulator import CellState, decided_rates


class FullDuplexEnv(Simulation[CellState]):
    """B cells side by side, all randomness from a generator of their own.

    Example::

        env = FullDuplexEnv(FullDuplexConfig(), num_envs=64, seed=0)
        rates = env.measure(env.state, torch.zeros(64, env.action_size))  # [64, K_D + K_U]
        state, truncated = env.advance()

    :param config: the scenario
    :param num_envs: B
    :param seed: of this environment's generator
    :param device: where everything lives
    """

    problem: FullDuplexProblem

    def __init__(self, config: FullDuplexConfig, num_envs: int, seed: int, device: str | torch.device = "cpu"):
        super().__init__(FullDuplexProblem(config, seed), num_envs, seed, device)
        self.config, self.num_envs, self.head = config, num_envs, self.problem.head

    @property
    def action_size(self) -> int:
        """Length of an action."""
        return self.problem.layout.size

    def reset(self) -> CellState:
        """Drop every cell again."""
        self.state = self.problem.reset(self.num_envs, self.generator)
        return self.state

    def advance(self) -> tuple[CellState, Tensor]:
        """Move on by one slot: the new state, and [B] bool, whose episode ended before it."""
        _, self.state, truncated = self.problem.cells.advance(self.state, self.generator)
        return self.state, truncated

    def measure(self, state: CellState, action: Tensor) -> Tensor:
        """Link rates that actions reach on the true channels, decided on the estimate.

        :param action: [B, size] or [B, M, size] for M candidates per state, in [-1, 1]
        :returns: [B, K_D + K_U] or [B, M, K_D + K_U], bit/s/Hz
        """
        several = action if action.dim() == 3 else action.unsqueeze(1)
        rates = decided_rates(self.head, state.channels, several, state.estimate)  # features would be in vain
        return rates if action.dim() == 3 else rates.squeeze(1)

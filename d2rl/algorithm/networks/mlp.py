"""The paper's plain network: one vector in, one hidden vector, one embedding for each entity out."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from d2rl.problems.base import Observation, Problem

HIDDEN_FACTOR = 8  # a hidden layer is this many times the width of an embedding


class MLPEncoder(nn.Module):
    """Embeds every entity of a state from the problem's flat vector; tied to its number of entities.

    :param problem: makes the vector, and refuses a state of another size
    :param width: size of an embedding
    :param layers: hidden layers
    :param extra: further numbers of the input
    """

    def __init__(self, problem: Problem, width: int, layers: int, extra: int = 0):
        super().__init__()
        self.flat, entities = problem.flat, problem.layout.entities
        hidden = HIDDEN_FACTOR * width
        sizes = [problem.sizes.flat + extra, *[hidden] * layers]
        blocks = [(nn.Linear(i, o), nn.ReLU()) for i, o in pairwise(sizes)]
        self.body = nn.Sequential(*(module for block in blocks for module in block))
        self.out = nn.Sequential(nn.Linear(hidden, entities * width), nn.ReLU(), nn.Unflatten(-1, (-1, width)))

    def forward(self, observation: Observation, extra: Tensor | None = None) -> Tensor:
        """Embeddings [B, K, width], or [B, M, K, width] with ``extra`` [B, M, extra]."""
        inputs = self.flat(observation)
        if extra is not None:
            inputs = torch.cat([inputs.unsqueeze(1).expand(-1, extra.shape[1], -1), extra], dim=-1)
        return self.out(self.body(inputs))


class MLPTransition(MLPEncoder):
    """Embeds every link of a state together with the view of an action, all in one vector."""

    def forward(self, observation: Observation, view: Tensor) -> Tensor:  # type: ignore[override]
        """Embeddings [B, M, K, width] from views [B, M, K, view] of M actions for each state."""
        return super().forward(observation, view.flatten(-2))

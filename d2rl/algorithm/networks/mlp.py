"""The paper's plain network: one vector in, one hidden vector, one embedding for each entity out."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from d2rl.problems.base import Observation, Problem

HIDDEN_FACTOR = 8  # a hidden layer is this many times the width of an embedding
CONSTANT = 1e-6  # deviation up to which a number does not vary


class MLPEncoder(nn.Module):
    """Embeds every entity of a state from the problem's flat vector; tied to its number of entities.

    :param problem: makes the vector, and refuses a state of another size
    :param width: size of an embedding
    :param layers: hidden layers
    :param extra: further numbers of the input
    :param standardise: whether each number of the vector is taken as its deviation from :meth:`calibrate`'s mean
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, problem: Problem, width: int, layers: int, extra: int = 0, standardise: bool = False):
        super().__init__()
        self.flat, entities, self.standardise = problem.flat, problem.layout.entities, standardise
        if standardise:
            self.register_buffer("centre", torch.zeros(problem.sizes.flat))
            self.register_buffer("spread", torch.ones(problem.sizes.flat))
        hidden = HIDDEN_FACTOR * width
        sizes = [problem.sizes.flat + extra, *[hidden] * layers]
        blocks = [(nn.Linear(i, o), nn.ReLU()) for i, o in pairwise(sizes)]
        self.body = nn.Sequential(*(module for block in blocks for module in block))
        self.out = nn.Sequential(nn.Linear(hidden, entities * width), nn.ReLU(), nn.Unflatten(-1, (-1, width)))

    @torch.no_grad()
    def calibrate(self, observation: Observation) -> None:
        """Take mean and deviation of every number from these states; what does not vary stays as it is."""
        flat = self.flat(observation)
        spread = flat.std(0)
        self.centre.copy_(flat.mean(0))
        self.spread.copy_(spread.where(spread > CONSTANT, 1.0))

    def forward(self, observation: Observation, extra: Tensor | None = None) -> Tensor:
        """Embeddings [B, K, width], or [B, M, K, width] with ``extra`` [B, M, extra]."""
        inputs = self.flat(observation)
        if self.standardise:
            inputs = (inputs - self.centre) / self.spread
        if extra is not None:
            inputs = torch.cat([inputs.unsqueeze(1).expand(-1, extra.shape[1], -1), extra], dim=-1)
        return self.out(self.body(inputs))


class MLPTransition(MLPEncoder):
    """Embeds every link of a state together with the view of an action, all in one vector."""

    def forward(self, observation: Observation, view: Tensor) -> Tensor:  # type: ignore[override]
        """Embeddings [B, M, K, width] from views [B, M, K, view] of M actions for each state."""
        return super().forward(observation, view.flatten(-2))

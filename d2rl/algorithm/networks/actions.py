"""From embeddings of entities to the numbers of an action, and back to what a textbook critic sees of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from d2rl.problems.base import Decision, Layout, Observation


class ActionOutput(nn.Module):
    """Reads each entity's numbers off its embedding, before tanh: [..., K, width] -> [..., K, numbers].

    Starts near zero, so that the first policy is the middle of the action's range.

    :param layout: of the action; every kind of entity has an output of its own      :param width: of an embedding
    """

    def __init__(self, layout: Layout, width: int):
        super().__init__()
        self.kinds = len(layout.counts)
        self.linear = nn.Linear(width, self.kinds * layout.width)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, embedding: Tensor, layout: Layout) -> Tensor:
        """The numbers of entities of this layout, which may have other counts than the first."""
        numbers, *others = self.linear(embedding).chunk(self.kinds, dim=-1)
        if others:
            kinds = layout.kinds(embedding.device)
            for kind, own in enumerate(others, start=1):
                numbers = torch.where(kinds == kind, own, numbers)
        return numbers


class NumbersView:
    """The numbers of each entity, those of each kind in a place of their own: the textbook form.

    What the numbers do to the other entities is left for the critic to learn.

    :param layout: of the action
    :param executed: actions [..., size] -> the numbers of what is carried out, which stand in their place
    """

    def __init__(self, layout: Layout, executed: Callable[[Tensor], Tensor] | None = None):
        self.size = len(layout.counts) * layout.width
        self.executed = executed

    def __call__(self, observation: Observation, action: Tensor, decision: Decision | None = None) -> Tensor:
        """[B, M, K, size] for M actions [B, M, size] of each state."""
        layout = observation.layout
        action = action if self.executed is None else self.executed(action)
        numbers, kinds = layout.to_entities(action), layout.kinds(action.device)
        return torch.cat([numbers * (kinds == kind) for kind in range(len(layout.counts))], dim=-1)

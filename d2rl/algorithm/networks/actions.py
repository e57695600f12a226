"""From embeddings of links to the numbers of an action."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ActionOutput(nn.Module):
    """Reads each link's numbers off its embedding, before tanh: [..., K, width] -> [..., K, numbers].

    Starts near zero, so that the first policy is the middle of the action's range.

    :param numbers: of one link      :param width: of an embedding
    """

    def __init__(self, numbers: int, width: int):
        super().__init__()
        self.linear = nn.Linear(width, 2 * numbers)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, embedding: Tensor, is_downlink: Tensor) -> Tensor:
        """The numbers; ``is_downlink`` is [K, 1] bool."""
        down, up = self.linear(embedding).chunk(2, dim=-1)
        return torch.where(is_downlink, down, up)


def downlink_mask(links: int, downlink_users: int, device: torch.device) -> Tensor:
    """[K, 1] bool: which links are downlink."""
    return (torch.arange(links, device=device) < downlink_users).unsqueeze(-1)

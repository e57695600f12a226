"""Between flat actions and embeddings of links; each link owns some numbers of the action."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d2rl.wireless.heads import ActionLayout


class ActionInput(nn.Module):
    """Embeds each link's part of an action: [..., size] -> [..., K, width]."""

    def __init__(self, layout: ActionLayout, width: int):
        super().__init__()
        self.layout = layout
        self.down, self.up = nn.Linear(layout.down, width), nn.Linear(layout.up, width)

    def forward(self, action: Tensor, downlink_users: int) -> Tensor:
        """Embeddings of the parts, downlink first."""
        down, up = self.layout.split(action, downlink_users)
        return torch.cat([self.down(down), self.up(up)], dim=-2)


class ActionOutput(nn.Module):
    """Reads an action off the embeddings of links: [..., K, width] -> [..., size], before tanh.

    Starts near zero, so that the first policy is the middle of the action's range.
    """

    def __init__(self, layout: ActionLayout, width: int):
        super().__init__()
        self.layout = layout
        self.down, self.up = nn.Linear(width, layout.down), nn.Linear(width, layout.up)
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)

    def forward(self, nodes: Tensor, downlink_users: int) -> Tensor:
        """The flat action."""
        down, up = nodes.tensor_split([downlink_users], dim=-2)
        return self.layout.join(self.down(down), self.up(up))

"""Networks: what they see of a state, how they embed it, how they read and write actions."""

from __future__ import annotations

from torch import nn

from d2rl.networks.actions import ActionOutput, downlink_mask
from d2rl.networks.features import Observation, action_features, observe
from d2rl.networks.link_graph import LinkGraphEncoder, LinkGraphNumbers, LinkGraphTransition
from d2rl.networks.mlp import MLPEncoder, MLPTransition
from d2rl.wireless.channels import ChannelState
from d2rl.wireless.heads import ActionHead


def make_encoder(kind: str, example: ChannelState, width: int, layers: int) -> nn.Module:
    """State -> embeddings [B, K, width]; ``kind`` is link_graph or mlp."""
    return LinkGraphEncoder(width, layers) if kind == "link_graph" else MLPEncoder(example, width, layers)


def make_transition(
    kind: str, example: ChannelState, head: ActionHead, width: int, layers: int, critic: str
) -> nn.Module:
    """State and M actions -> embeddings [B, M, K, width].

    :param kind: link_graph or mlp
    :param critic: what a link graph sees of an action, powers or numbers; an mlp always sees numbers
    """
    if kind == "mlp":
        return MLPTransition(example, width, layers, extra=head.layout.size(example))
    return LinkGraphTransition(head, width) if critic == "powers" else LinkGraphNumbers(head, width, layers)


__all__ = [
    "ActionOutput",
    "Observation",
    "action_features",
    "downlink_mask",
    "make_encoder",
    "make_transition",
    "observe",
]

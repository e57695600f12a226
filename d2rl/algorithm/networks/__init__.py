"""Networks: what they see of a state, how they embed it, how they read and write actions."""

from __future__ import annotations

from torch import nn

from d2rl.algorithm.networks.actions import ActionOutput, downlink_mask
from d2rl.algorithm.networks.link_graph import LinkGraphEncoder, LinkGraphTransition, LinkTransition
from d2rl.algorithm.networks.mlp import MLPEncoder, MLPTransition
from d2rl.problems.full_duplex.observation import Observation, observe
from d2rl.problems.full_duplex.views import NumbersView, PowersView, decide
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.heads import ActionHead


def make_encoder(kind: str, example: ChannelState, width: int, layers: int) -> nn.Module:
    """State -> embeddings [B, K, width]; ``kind`` is link_graph or mlp."""
    return LinkGraphEncoder(width, layers) if kind == "link_graph" else MLPEncoder(example, width, layers)


def make_view(critic: str, head: ActionHead) -> PowersView | NumbersView:
    """State and M actions -> what a critic sees of them, [B, M, K, view]; ``critic`` is powers or numbers."""
    return PowersView(head) if critic == "powers" else NumbersView(head)


def make_transition(kind: str, example: ChannelState, view: int, width: int, layers: int, critic: str) -> nn.Module:
    """State and views of M actions -> embeddings [B, M, K, width].

    :param kind: link_graph or mlp
    :param view: numbers of a view for each link
    :param critic: what the view tells, powers or numbers; numbers ask for message passing
    """
    if kind == "mlp":
        return MLPTransition(example, width, layers, extra=view * example.links)
    return LinkTransition(view, width) if critic == "powers" else LinkGraphTransition(view, width, layers)


__all__ = [
    "ActionOutput",
    "Observation",
    "decide",
    "downlink_mask",
    "make_encoder",
    "make_transition",
    "make_view",
    "observe",
]

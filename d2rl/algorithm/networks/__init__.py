"""Networks: how they embed a state, and a state with an action. They ask a problem for sizes only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from d2rl.algorithm.networks.actions import ActionOutput, NumbersView
from d2rl.algorithm.networks.link_graph import LinkGraphEncoder, LinkGraphTransition, LinkTransition
from d2rl.algorithm.networks.mlp import MLPEncoder, MLPTransition
from d2rl.config.defaults import NetworkConfig
from d2rl.problems.base import Problem

View = Callable[..., Tensor]


def make_encoder(config: NetworkConfig, problem: Problem) -> nn.Module:
    """State -> embeddings [B, K, width]."""
    if config.kind == "link_graph":
        return LinkGraphEncoder(problem.sizes, config.width, config.layers)
    return MLPEncoder(problem, config.width, config.layers, standardise=config.standardise)


def make_view(config: NetworkConfig, problem: Any) -> tuple[View, int]:
    """State and M actions -> what a critic sees of them, [B, M, K, view], and the size of that.

    ``network.critic=powers`` is the problem's own view, what the actions bring about; ``numbers`` the bare action;
    ``executed`` what its limits leave of that.
    """
    if config.critic == "powers":
        return problem.view, problem.sizes.view
    view = NumbersView(problem.layout, problem.executed if config.critic == "executed" else None)
    return view, view.size


def make_transition(config: NetworkConfig, problem: Problem, view: int, alone: bool = False) -> nn.Module:
    """State and views of M actions -> embeddings [B, M, K, width].

    :param view: numbers of a view for each entity; bare ones ask for message passing
    :param alone: a link that is told its powers need not know of the average link
    """
    if config.kind == "mlp":
        extra = view * problem.layout.entities
        return MLPTransition(problem, config.width, config.layers, extra, config.standardise)
    if config.critic == "powers":
        return LinkTransition(problem.sizes, view, config.width, alone)
    return LinkGraphTransition(problem.sizes, view, config.width, config.layers)


__all__ = ["ActionOutput", "MLPEncoder", "NumbersView", "View", "make_encoder", "make_transition", "make_view"]

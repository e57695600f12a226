"""Sums of messages between all pairs of links, without ever holding all messages of many links."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Numbers of a block of messages: on a CPU what a core's own cache holds, on a GPU what is little of its memory.
BLOCK = {"cpu": 1 << 17, "cuda": 1 << 26}


def exchange(receiver: Tensor, sender: Tensor, edges: Tensor, weight: Tensor) -> Tensor:
    """sum_j relu(r_i + s_j + W e_ij): [..., K, width].

    Few messages are computed at once. Many, which would have to travel to memory and back for every operator, are
    computed block by block, and again for the gradient, so that memory grows with K and not with its square.

    :param receiver: r, [B, K, width] or [B, M, K, width]
    :param sender: s, of the same shape
    :param edges: e, [B, K, K, E], or [B, 1, K, K, E] for M sets of links; no gradient goes there
    :param weight: W, [width, E]
    """
    several = receiver.dim() == 4
    if torch.compiler.is_compiling() or _few(receiver):  # a traced graph is for any number of states
        # in place: the memory traffic of every pass over K x K costs more than its arithmetic; only the first sum is
        # not, since edges may be shared by several sets of nodes
        messages = F.linear(edges, weight) + receiver.unsqueeze(-2)
        return messages.add_(sender.unsqueeze(-3)).relu_().sum(-2)
    if several:
        return BlockwiseExchange.apply(receiver, sender, edges.squeeze(1), weight)
    return BlockwiseExchange.apply(receiver.unsqueeze(1), sender.unsqueeze(1), edges, weight).squeeze(1)


class BlockwiseExchange(torch.autograd.Function):
    """The sums of :func:`exchange` for receivers and senders [B, M, K, width] and edges [B, K, K, E]."""

    @staticmethod
    def forward(ctx: Any, receiver: Tensor, sender: Tensor, edges: Tensor, weight: Tensor) -> Tensor:
        """Block after block."""
        ctx.save_for_backward(receiver, sender, edges, weight)
        sums = torch.empty_like(receiver, memory_format=torch.contiguous_format)
        for states, rows in _blocks(receiver):
            messages = _messages(receiver, sender, edges, weight, states, rows)
            sums[states, :, rows] = messages.relu_().sum(-2)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """With messages that are computed again: g_i reaches the senders of messages above zero."""
        receiver, sender, edges, weight = ctx.saved_tensors
        by_receiver, by_sender = torch.empty_like(gradient), torch.zeros_like(gradient)
        by_weight = torch.zeros_like(weight)
        for states, rows in _blocks(receiver):
            messages = _messages(receiver, sender, edges, weight, states, rows)
            # where a message is above zero what its receiver is given, else zero; ``where`` takes ten times as long
            messages = messages.relu_().sign_().mul_(gradient[states, :, rows].unsqueeze(-2))
            by_receiver[states, :, rows] = messages.sum(-2)
            by_sender[states] += messages.sum(-3)
            by_edge = messages.sum(1) if messages.shape[1] > 1 else messages.squeeze(1)
            by_weight += by_edge.flatten(0, -2).mT @ edges[states, rows].flatten(0, -2)
        return by_receiver, by_sender, None, by_weight


def _few(receiver: Tensor) -> bool:
    """Whether all messages are computed at once: they hardly leave the caches, or have the types of autocast."""
    device = receiver.device.type
    numbers = receiver.numel() * receiver.shape[-2]
    return numbers <= 8 * BLOCK.get(device, BLOCK["cpu"]) or torch.is_autocast_enabled(device)


def _messages(receiver: Tensor, sender: Tensor, edges: Tensor, weight: Tensor, states: slice, rows: slice) -> Tensor:
    """Messages to some links of some states, before relu: [states, M, rows, K, width]."""
    messages = F.linear(edges[states, rows], weight).unsqueeze(1)
    heard = receiver[states, :, rows].unsqueeze(-2)
    messages = messages.add_(heard) if heard.shape[1] == 1 else messages + heard
    return messages.add_(sender[states].unsqueeze(-3))


def _blocks(receiver: Tensor) -> Iterator[tuple[slice, slice]]:
    """States and receivers of every block: whole states where one fits, else a part of one."""
    batch, sets, links, width = receiver.shape
    limit, row = BLOCK.get(receiver.device.type, BLOCK["cpu"]), sets * links * width
    states, rows = max(1, limit // (row * links)), min(links, max(1, limit // row))
    for first in range(0, batch, states):
        for begin in range(0, links, rows):
            yield slice(first, first + states), slice(begin, begin + rows)

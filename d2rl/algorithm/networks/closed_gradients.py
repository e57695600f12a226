"""Networks whose gradients are written out: an update of small ones costs its operators, and autograd's are many.

Every network is one node of autograd. Intermediate results are written over where nobody needs them, and sums are taken
over links before they are taken over states.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def apply_to(state: Tensor) -> bool:
    """Whether they may stand in: not in a traced graph, where autocast chooses the types, or for a gradient of a state.

    :param state: numbers of its links
    """
    plain = torch.compiler.is_compiling() or torch.is_autocast_enabled(state.device.type)
    return not (plain or state.requires_grad)


class LinkGraph(torch.autograd.Function):
    """:class:`~d2rl.algorithm.networks.link_graph.LinkGraphEncoder`, with all messages of a layer at once."""

    @staticmethod
    def forward(ctx: Any, nodes: Tensor, edges: Tensor, *weights: Tensor) -> Tensor:
        """Embeddings [B, K, W].

        :param nodes: [B, K, nodes]; no gradient goes there, nor to
        :param edges: [B, K, K, E]
        :param weights: weight and bias of the inlet, and of ends, edges (None) and update of every layer
        """
        (states, links), (weight, bias), scale = nodes.shape[:2], weights[:2], nodes.shape[1] ** -0.5
        nodes, pairs = nodes.flatten(0, 1), edges.reshape(-1, edges.shape[-1])
        embedding = torch.addmm(bias, nodes, weight.t()).relu_()
        saved = [nodes, pairs, embedding]
        for i in range(2, len(weights), 6):
            both, both_bias, edge, _, update, update_bias = weights[i : i + 6]
            ends = torch.addmm(both_bias, embedding, both.t()).view(states, links, 1, -1)
            receiver, sender = ends.chunk(2, dim=-1)
            messages = torch.mm(pairs, edge.t()).view(states, links, links, -1)
            messages.add_(receiver).add_(sender.transpose(1, 2)).relu_()
            joined = torch.cat([embedding, messages.sum(2).mul_(scale).flatten(0, 1)], dim=1)
            change = torch.addmm(update_bias, joined, update.t()).relu_()
            embedding = embedding + change
            saved += [messages, joined, change]
        ctx.save_for_backward(*weights, *saved)
        ctx.weights = len(weights)
        return embedding.view(states, links, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the weights."""
        weights, (nodes, pairs, first, *layers) = ctx.saved_tensors[: ctx.weights], ctx.saved_tensors[ctx.weights :]
        (states, links, width), found = gradient.shape, list[Tensor | None]()
        gradient = gradient.reshape(-1, width)
        for i in range(len(weights) - 6, 0, -6):
            (both, _, _, _, update, _), (messages, joined, change) = weights[i : i + 6], layers[-3:]
            del layers[-3:]
            changed = _through_relu(gradient, change)
            seen = torch.mm(changed, update)
            gathered = seen[:, width:].mul(links**-0.5).view(states, links, 1, width)
            heard = _through_relu(gathered.expand_as(messages), messages)
            ends = torch.cat([heard.sum(2), heard.sum(1)], dim=2).flatten(0, 1)
            gradient = torch.addmm(gradient, ends, both).add_(seen[:, :width])
            by_edge = torch.mm(pairs.t(), heard.view(-1, width)).t().contiguous()  # a third of the time of its mirror
            by_both = torch.mm(ends.t(), joined[:, :width])
            found[:0] = [by_both, ends.sum(0), by_edge, None, torch.mm(changed.t(), joined), changed.sum(0)]
        gradient = _through_relu(gradient, first)
        return None, None, torch.mm(gradient.t(), nodes), gradient.sum(0), *found


class Links(torch.autograd.Function):
    """:class:`~d2rl.algorithm.networks.link_graph.LinkTransition` of links that know of the average link."""

    @staticmethod
    def forward(ctx: Any, nodes: Tensor, view: Tensor, *weights: Tensor) -> Tensor:
        """Embeddings [B, M, K, W].

        :param nodes: [B, K, nodes]; no gradient goes there
        :param view: [B, M, K, V]
        :param weights: weight and bias of ``state`` and of ``hidden``, weight of ``view`` and of ``mean``
        """
        state, bias, hidden, hidden_bias, by_view, by_mean = weights
        shape = (*view.shape[:3], len(state))
        nodes, seen = nodes.flatten(0, 1), view.reshape(-1, view.shape[-1])
        known = torch.addmm(bias, nodes, state.t())
        links = torch.mm(seen, by_view.t())
        links.view(shape).add_(known.view(shape[0], 1, *shape[2:])).relu_()
        average = links.view(-1, *shape[2:]).mean(1)
        output = torch.addmm(hidden_bias, links, hidden.t()).view(shape)
        output.add_(torch.mm(average, by_mean.t()).view(*shape[:2], 1, -1)).relu_()
        ctx.save_for_backward(by_view, hidden, by_mean, nodes, seen, links, average, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the weights, and of the view where that is asked for."""
        by_view, hidden, by_mean, nodes, seen, links, average, output = ctx.saved_tensors
        shape = gradient.shape
        outer = _through_relu(gradient, output).view(-1, *shape[2:])
        total = outer.sum(1)
        inner = torch.mm(outer.view(-1, shape[3]), hidden).view_as(outer)
        inner.add_(torch.mm(total, by_mean).div_(shape[2]).unsqueeze(1))
        inner = _through_relu(inner.view_as(links), links)
        to_view = torch.mm(inner, by_view).view(*shape[:3], -1) if ctx.needs_input_grad[1] else None
        state = inner.view(shape).sum(1).flatten(0, 1)
        return (
            *(None, to_view, torch.mm(state.t(), nodes), state.sum(0), torch.mm(outer.flatten(0, 1).t(), links)),
            *(total.sum(0), torch.mm(seen.t(), inner).t().contiguous(), torch.mm(total.t(), average)),
        )


def _through_relu(gradient: Tensor, output: Tensor) -> Tensor:
    """The gradient of what relu made ``output`` of."""
    return torch.ops.aten.threshold_backward.default(gradient, output, 0)

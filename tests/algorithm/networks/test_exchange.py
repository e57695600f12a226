"""Messages block by block are those of all at once, with their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from d2rl.algorithm.networks import exchange as module
from d2rl.algorithm.networks.exchange import exchange


def written_out(receiver: Tensor, sender: Tensor, edges: Tensor, weight: Tensor) -> Tensor:
    """The formula, pair by pair."""
    sums = torch.zeros_like(receiver)
    for i in range(receiver.shape[-2]):
        for j in range(receiver.shape[-2]):
            own = edges[..., i, j, :] @ weight.mT
            sums[..., i, :] += torch.relu(receiver[..., i, :] + sender[..., j, :] + own)
    return sums


@pytest.mark.parametrize("block", [1, 40, 200, 10**6])
@pytest.mark.parametrize("sets", [0, 1, 3], ids=["one set", "one of several", "several"])
def test_sums_and_gradients_are_those_of_every_pair(generator, monkeypatch, block, sets):
    monkeypatch.setattr(module, "BLOCK", {"cpu": block})
    lead = (4, sets) if sets else (4,)
    shapes = (*lead, 5, 3), (*lead, 5, 3), (4, 1, 5, 5, 2) if sets else (4, 5, 5, 2), (3, 2)
    given = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    towards = torch.randn(shapes[0], generator=generator, dtype=torch.float64)

    def results(function) -> list[Tensor]:
        receiver, sender, weight = (given[n].clone().requires_grad_() for n in (0, 1, 3))
        sums = function(receiver, sender, given[2], weight)
        return [sums.detach(), *torch.autograd.grad((sums * towards).sum(), (receiver, sender, weight))]

    torch.testing.assert_close(results(exchange), results(written_out))


def test_many_links_are_never_held_pair_by_pair(generator, monkeypatch):
    """What is kept for the gradient grows with the links, not with their pairs."""
    monkeypatch.setattr(module, "BLOCK", {"cpu": 64})
    kept: list[int] = []
    receiver, sender = (torch.randn(2, 20, 4, generator=generator).requires_grad_() for _ in range(2))
    edges, weight = torch.randn(2, 20, 20, 3, generator=generator), torch.randn(4, 3, generator=generator)

    def pack(tensor: Tensor) -> Tensor:
        kept.append(0 if tensor.data_ptr() == edges.data_ptr() else tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        exchange(receiver, sender, edges, weight).sum()
    assert max(kept) <= receiver.numel()

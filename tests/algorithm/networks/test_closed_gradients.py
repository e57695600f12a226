"""Gradients that are written out are those of autograd on the plain networks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d2rl.algorithm.networks import closed_gradients
from d2rl.algorithm.networks.link_graph import LinkGraphEncoder, LinkTransition

SIZES: Any = SimpleNamespace(nodes=7, edges=4, view=2)


def made(network: type[nn.Module], *arguments: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return network(SIZES, *arguments).double()


def state(generator: torch.Generator, links: int) -> Any:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return SimpleNamespace(nodes=normal(3, links, 7), edges=normal(3, links, links, 4), view=normal(3, 2, links, 2))


def both_ways(monkeypatch: pytest.MonkeyPatch, network: nn.Module, *given: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Output, and gradients of all that asks for one: as written out, and by autograd."""
    results, closed = [], []
    asking = [one for one in (*network.parameters(), *given) if isinstance(one, Tensor) and one.requires_grad]
    for plain in (False, True):
        with monkeypatch.context() as patch:
            if plain:
                patch.setattr(closed_gradients, "apply_to", lambda state: False)
            output = network(*given)
            closed.append(type(output.grad_fn).__name__)
        direction = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)
        results.append([output.detach(), *torch.autograd.grad((output * direction).sum(), asking)])
    assert closed[0] in ("LinkGraphBackward", "LinksBackward")
    assert closed[1] not in closed[:1]
    return results[0], results[1]


@pytest.mark.parametrize("links", [1, 5])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_an_encoder_of_links(generator, monkeypatch, links, layers):
    found, expected = both_ways(monkeypatch, made(LinkGraphEncoder, 8, layers), state(generator, links))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("links", [1, 5])
@pytest.mark.parametrize("slope", [False, True], ids=["weights alone", "view besides"])
def test_a_critic_of_links(generator, monkeypatch, links, slope):
    cell = state(generator, links)
    found, expected = both_ways(monkeypatch, made(LinkTransition, 2, 8), cell, cell.view.requires_grad_(slope))
    assert len(found) == 7 + slope
    torch.testing.assert_close(found, expected)


def test_nothing_is_written_out_where_types_are_chosen_or_a_state_asks_for_a_gradient(generator):
    nodes = state(generator, 5).nodes
    assert closed_gradients.apply_to(nodes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not closed_gradients.apply_to(nodes)
    assert not closed_gradients.apply_to(nodes.requires_grad_())

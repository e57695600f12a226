"""What stands in for a library's algebra gives its numbers; what waits or fails is named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from d2rl.algorithm.capturable import ElementaryAlgebra, Waits, Watched
from d2rl.wireless.heads import StructuredHead
from d2rl.wireless.link_powers import link_powers


def systems(generator: torch.Generator, size: int = 5) -> Tensor:
    """Hermitian and positive definite matrices [3, size, size]."""
    root = torch.randn(3, size, size, dtype=torch.complex128, generator=generator)
    return root @ root.mH + torch.eye(size)


@pytest.mark.parametrize(
    "work",
    [
        lambda a, b: torch.linalg.cholesky_ex(a)[0],
        lambda a, b: torch.linalg.cholesky_ex(a, upper=True)[0],
        lambda a, b: torch.linalg.solve_ex(a, b)[0],
        lambda a, b: torch.linalg.solve_ex(a, b.mT, left=False)[0],
        lambda a, b: torch.linalg.solve_ex(a, b[..., 0])[0],
        lambda a, b: torch.linalg.solve_triangular(a.tril(), b, upper=False),
        lambda a, b: torch.linalg.solve_triangular(a.triu(), b, upper=True, unitriangular=True),
        lambda a, b: torch.linalg.solve_triangular(a.tril(), b.mT, upper=False, left=False),
        lambda a, b: torch.linalg.inv_ex(a)[0],
    ],
)
def test_elementary_operators_give_the_values_and_gradients_of_the_library(work, generator):
    matrix = systems(generator)
    right = torch.randn(3, 5, 2, dtype=torch.complex128, generator=generator)

    def results() -> list[Tensor]:
        a, b = matrix.clone().requires_grad_(), right.clone().requires_grad_()
        found = work(a, b)
        gradients = torch.autograd.grad((found * found.conj()).real.sum() + found.imag.sum(), (a, b), allow_unused=True)
        return [found.detach(), *(gradient for gradient in gradients if gradient is not None)]

    expected = results()
    with ElementaryAlgebra():
        found = results()
    torch.testing.assert_close(found, expected)


def test_the_critics_view_by_elementary_operators_is_the_same_with_its_gradient(channels, generator):
    head, action = StructuredHead(), 2 * torch.rand(16, 20, generator=generator) - 1

    def results() -> list[Tensor]:
        given = action.clone().requires_grad_()
        powers = torch.stack(link_powers(channels, *head.decode(channels, given))).log()
        return [powers.detach(), *torch.autograd.grad(powers.sum(), given)]

    expected = results()
    with ElementaryAlgebra(), Watched() as watched:
        found = results()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not watched.failed


def test_no_factorisation_of_a_view_is_left_to_a_library(channels, generator):
    class Library(Watched):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert "linalg" not in str(func)
            return super().__torch_dispatch__(func, types, args, kwargs)

    head, action = StructuredHead(), torch.zeros(16, 20, requires_grad=True)
    with Library(), ElementaryAlgebra():
        torch.stack(link_powers(channels, *head.decode(channels, action))).sum().backward()
    assert bool(action.grad.isfinite().all())


def test_an_operator_that_fails_is_named_with_the_line_that_asked_for_it(channels):
    class Refusing(Watched):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "cholesky" in str(func):
                raise RuntimeError("operation not permitted when stream is capturing")
            return func(*args, **(kwargs or {}))

    head = StructuredHead()
    with Watched() as watched, pytest.raises(RuntimeError), Refusing():
        link_powers(channels, *head.decode(channels, torch.zeros(16, 20)))
    assert "shaped_beams.py:" in str(watched)


def test_waits_are_those_of_the_host():
    with Waits() as waits:
        torch.ones(3).sum()
    assert waits.found == []

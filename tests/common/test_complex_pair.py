"""Complex algebra on pairs of real tensors equals complex algebra."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from d2rl.common.complex_pair import ComplexPair
from d2rl.common.tensor_struct import repeated
from d2rl.wireless.link_rates import add_identity, add_noise, inner, real_diagonal, squared_magnitude, unit_columns


def matrix(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.complex128, generator=generator)


def positive(size: int) -> torch.Tensor:
    vectors = matrix(4, size, 3)
    return vectors @ vectors.mH + torch.eye(size)


A, B, SQUARE, SYSTEM, RIGHT = (
    matrix(2, 3, 5, seed=1),
    matrix(2, 5, 4, seed=2),
    matrix(2, 4, 4),
    positive(6),
    matrix(4, 6, 2),
)
REAL = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
EXPRESSIONS = {
    "product": lambda a, b, *_: a @ b,
    "sums": lambda a, b, *_: a + 2 * a - a.conj() * a + REAL - -a,
    "scaling": lambda a, b, *_: REAL * a / a.abs().sum(-1, keepdim=True),
    "transposes": lambda a, b, *_: a.mT.conj() + a.mH,
    "rows": lambda a, b, *_: a[:, 1:] + torch.cat([a, a], dim=-2)[:, -2:],
    "columns": lambda a, b, *_: torch.cat([a, a], dim=-1)[..., 3:-2] - a[:1],
    "every other row": lambda a, b, *_: a[:, ::2],
    "squares": lambda a, b, *_: squared_magnitude(a),
    "squares of a product": lambda a, b, *_: squared_magnitude(a @ b),
    "columns of norm 1": lambda a, b, *_: unit_columns(a),
    "inner products": lambda a, b, *_: inner(a, 2 * a),
    "diagonal": lambda a, b, *_: real_diagonal(a @ a.mH),
    "factors of rows, columns and both": lambda a, b, *_: REAL[..., :1] * a * REAL[:, :1] / REAL,
    "identities": lambda a, b, system, _: add_identity(system, REAL[:1, :1, :1]) + add_noise(1e20 * system),
    "stacks": lambda a, b, *_: torch.stack([a, a + 1], dim=1).flatten(0, 1) @ repeated(b, 2),
    "copies": lambda a, b, *_: repeated(a, 3),
    "padding": lambda a, b, *_: F.pad(a, (0, 1, 0, 2)),
    "parts": lambda a, b, *_: sum(a.tensor_split([2], dim=-1)[1].unbind(-1)),
    "memory": lambda a, b, *_: torch.view_as_real(a),
    "solution": lambda a, b, system, right: torch.linalg.solve_ex(system, right)[0],
    "inverse": lambda a, b, system, right: torch.linalg.inv_ex(system)[0],
    "whitening": lambda a, b, system, right: torch.linalg.solve_triangular(
        torch.linalg.cholesky_ex(system)[0], right, upper=False
    ),
}


@pytest.mark.parametrize("form", ["parts", "matrix"])
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_has_the_value_that_it_has_with_complex_numbers(name, form):
    numbers = A, B, SYSTEM, RIGHT
    expected = EXPRESSIONS[name](*numbers)
    pairs = [ComplexPair.of(each) for each in numbers]
    if form == "matrix":
        pairs = [ComplexPair(matrix=pair.matrix) for pair in pairs]
    found = EXPRESSIONS[name](*pairs)
    if isinstance(found, ComplexPair):
        found = torch.complex(found.real, found.imag)
    torch.testing.assert_close(found, expected)


def test_a_pair_answers_for_itself_as_its_tensor_does():
    pair = ComplexPair.of(A.to(torch.complex64))
    assert (pair.shape, pair.dtype, pair.dim(), pair.is_complex()) == (A.shape, torch.complex64, 3, True)
    assert pair.to(torch.complex128).dtype == torch.complex128
    for parts in (torch.view_as_real(A), torch.view_as_real(A).unsqueeze(0)):
        torch.testing.assert_close(torch.view_as_real(ComplexPair.of(parts)), parts)


def test_a_matrix_of_blocks_stands_for_the_complex_one():
    numbers = torch.tensor([[1 + 2j, 3 - 4j]])
    expected = torch.tensor([[1.0, -2.0, 3.0, 4.0], [2.0, 1.0, -4.0, 3.0]])
    torch.testing.assert_close(ComplexPair.of(numbers).matrix, expected)
    torch.testing.assert_close(ComplexPair.of(torch.view_as_real(numbers[None])).matrix[0], expected)


def test_what_pairs_cannot_do_is_named():
    with pytest.raises(NotImplementedError, match="no torch function fft_fft"):
        torch.fft.fft(ComplexPair.of(A))
    with pytest.raises(AttributeError, match="no trace"):
        ComplexPair.of(SQUARE).trace()

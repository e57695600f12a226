r"""Complex tensors as real ones, for runtimes without complex numbers: the same physics runs on both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from d2rl.common.elimination import eliminate

PARTWISE = (  # methods that treat the real and the imaginary part alike
    *("contiguous", "cumsum", "diagonal", "expand_as", "flatten", "masked_fill", "mean", "permute", "repeat"),
    *("repeat_interleave", "reshape", "select", "sum", "transpose", "unflatten", "unsqueeze", "squeeze"),
    *("split", "tensor_split", "unbind", "chunk"),
)
LEADING = ("flatten", "unbind", "unsqueeze")  # of these, methods that may leave the last two dimensions alone
REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}
COMPLEX = {real: kind for kind, real in REAL.items()}
WHOLE = slice(None)


class ComplexPair:
    """A complex tensor in two real forms; operators and the torch functions of the physics take it.

    The *parts* are the real and the imaginary one. The *matrix* is that of the last two dimensions, twice as large: a
    number x + iy is its block [[x, -y], [y, x]]. Sums, products and Hermitian transposes of such matrices are those of
    the complex ones, one operator each. Either form is made of the other when it is first asked for.
    Whatever is not described here is as of a tensor.

    Example::

        pair = ComplexPair.of(torch.randn(3, 4, dtype=torch.complex64))
        torch.view_as_real(pair.mH @ pair)

    :param real: real part
    :param imag: imaginary part, of the same shape
    :param matrix: [..., 2 n, 2 m], in their place
    """

    def __init__(self, real: Tensor | None = None, imag: Tensor | None = None, matrix: Tensor | None = None):
        self._parts = None if real is None or imag is None else (real, imag)
        self._matrix = matrix

    @classmethod
    def of(cls, numbers: Tensor) -> ComplexPair:
        """From a complex tensor, or from a real one whose last dimension holds the two parts."""
        parts = torch.view_as_real(numbers.resolve_conj()) if numbers.is_complex() else numbers
        if parts.dim() < 4:
            return cls(*parts.unbind(-1))
        *leading, rows, columns, _ = parts.shape
        blocks = parts.new_tensor([[1.0, 0.0], [0.0, -1.0]]), parts.new_tensor([[0.0, 1.0], [1.0, 0.0]])
        identity = torch.eye(columns, dtype=parts.dtype, device=parts.device)
        both = torch.cat([torch.kron(identity, row) for row in blocks], dim=-1)
        return cls(matrix=(parts.flatten(-2) @ both).reshape(*leading, 2 * rows, 2 * columns))

    @property
    def parts(self) -> tuple[Tensor, Tensor]:
        """Real and imaginary part."""
        if self._parts is None:
            columns = self.matrix[..., ::2]
            self._parts = columns[..., ::2, :], columns[..., 1::2, :]
        return self._parts

    @property
    def matrix(self) -> Tensor:
        """The other form, [..., 2 n, 2 m]."""
        if self._matrix is None:
            real, imag = self.parts
            blocks = torch.stack([real, -imag, imag, real], dim=-1).unflatten(-1, (2, 2))
            *leading, rows, columns = real.shape
            self._matrix = blocks.transpose(-3, -2).reshape(*leading, 2 * rows, 2 * columns)
        return self._matrix

    @property
    def real(self) -> Tensor:
        return self.parts[0]

    @property
    def imag(self) -> Tensor:
        return self.parts[1]

    @property
    def shape(self) -> torch.Size:
        if self._matrix is None:
            return self.parts[0].shape
        *leading, rows, columns = self._matrix.shape
        return torch.Size([*leading, rows // 2, columns // 2])

    @property
    def device(self) -> torch.device:
        return self._any.device

    @property
    def dtype(self) -> torch.dtype:
        """That of the complex tensor that it stands for."""
        return COMPLEX[self._any.dtype]

    @property
    def mT(self) -> ComplexPair:  # noqa: N802
        return self.mH.conj()

    @property
    def mH(self) -> ComplexPair:  # noqa: N802
        return ComplexPair(matrix=self.matrix.mT)

    def dim(self) -> int:
        return self._any.dim()

    def resolve_conj(self) -> ComplexPair:
        return self

    def is_complex(self) -> bool:
        """It stands for complex numbers."""
        return True

    def conj(self) -> ComplexPair:
        if self._matrix is None:
            return ComplexPair(self.real, -self.imag)
        signs = self._matrix.new_tensor([[1.0, -1.0], [-1.0, 1.0]])
        return ComplexPair(matrix=self._matrix * signs.repeat(*self.shape[-2:]))

    def abs(self) -> Tensor:
        return self.squared_magnitude().sqrt()

    def squared_magnitude(self) -> Tensor:
        """|x|^2 of every number."""
        if self._matrix is None:
            return self.real.square() + self.imag.square()
        halves = self._matrix[..., ::2].unflatten(-2, (-1, 2))
        return (halves * halves).sum(-2)

    def inner(self, other: ComplexPair) -> Tensor:
        """Re(a^H b) of every column a and that of ``other``: [..., m]."""
        return (self.matrix * other.matrix).sum(-2)[..., ::2]

    def real_diagonal(self) -> Tensor:
        """The real part of the diagonal of square matrices: [..., n]."""
        return self.matrix.flatten(-2)[..., :: 2 * self.matrix.shape[-1] + 2]

    def to(self, kind: torch.dtype) -> ComplexPair:
        """In another precision."""
        if self._matrix is None:
            return ComplexPair(*(part.to(REAL[kind]) for part in self.parts))
        return ComplexPair(matrix=self._matrix.to(REAL[kind]))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in PARTWISE:
            raise AttributeError(f"complex pairs have no {name}")

        def method(*args: Any, **kwargs: Any) -> Any:
            if self._matrix is None or name not in LEADING or not self._leads(name, *args):
                return _paired(getattr(part, name)(*args, **kwargs) for part in self.parts)
            found = getattr(self._matrix, name)(*args)
            return ComplexPair(matrix=found) if isinstance(found, Tensor) else [ComplexPair(matrix=m) for m in found]

        return method

    def _leads(self, name: str, *dims: int) -> bool:
        """Whether a method leaves the last two dimensions alone."""
        dims = (*dims, -1)[:2] if name == "flatten" else dims
        return all(0 <= dim < self.dim() - 2 + (name == "unsqueeze") for dim in dims)

    def expand(self, *sizes: Any) -> ComplexPair:
        if self._matrix is None:
            return ComplexPair(*(part.expand(*sizes) for part in self.parts))
        return ComplexPair(matrix=self._matrix.expand(*sizes[:-2], *(2 * size for size in sizes[-2:])))

    def __getitem__(self, index: Any) -> ComplexPair:
        blocks = None if self._matrix is None else _of_blocks(index, self.dim())
        if blocks is None:
            return ComplexPair(*(part[index] for part in self.parts))
        return ComplexPair(matrix=self.matrix[blocks])

    def __neg__(self) -> ComplexPair:
        return self * -1

    def __add__(self, other: Any) -> ComplexPair:
        if not isinstance(other, ComplexPair):
            return ComplexPair(self.real + other, self.imag)
        if self._matrix is None and other._matrix is None:
            return ComplexPair(self.real + other.real, self.imag + other.imag)
        return ComplexPair(matrix=self.matrix + other.matrix)

    def __sub__(self, other: Any) -> ComplexPair:
        return self + -other

    def __mul__(self, other: Any) -> ComplexPair:
        if isinstance(other, ComplexPair):
            (a, b), (c, d) = self.parts, other.parts
            return ComplexPair(a * c - b * d, a * d + b * c)
        if self._matrix is None:
            return ComplexPair(self.real * other, self.imag * other)
        return ComplexPair(matrix=self._matrix * _for_blocks(other))

    def __matmul__(self, other: ComplexPair) -> ComplexPair:
        return ComplexPair(matrix=self.matrix @ other.matrix)

    def __truediv__(self, other: Tensor | float) -> ComplexPair:
        if self._matrix is None:
            return ComplexPair(self.real / other, self.imag / other)
        return ComplexPair(matrix=self._matrix / _for_blocks(other))

    @property
    def _any(self) -> Tensor:
        return self.parts[0] if self._matrix is None else self._matrix

    __radd__, __rmul__ = __add__, __mul__

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__
        if name not in FUNCTIONS:
            raise NotImplementedError(f"complex pairs have no torch function {name}")
        return FUNCTIONS[name](*args, **(kwargs or {}))


def complex_like(like: Any, parts: Tensor) -> Any:
    """Complex numbers of the two parts in the last dimension, as a tensor or as a pair, whichever ``like`` is."""
    return ComplexPair.of(parts) if isinstance(like, ComplexPair) else torch.view_as_complex(parts.contiguous())


class Factor:
    """The Cholesky factor of a Hermitian and positive definite matrix, never written out."""

    def __init__(self, system: ComplexPair):
        self.system, self.shape = system, system.shape
        self.device, self.dtype = system.device, REAL[system.dtype]

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return ComplexPair.__torch_function__(function, types, args, kwargs)

    def whiten(self, right: ComplexPair | Tensor) -> ComplexPair:
        """L^-1 right."""
        if isinstance(right, Tensor):
            blocks = torch.eye(2, dtype=right.dtype, device=right.device).repeat(*right.shape[-2:])
            right = ComplexPair(matrix=_for_blocks(right) * blocks)
        size = 2 * self.shape[-1]
        rows, _ = eliminate(self.system.matrix, right.matrix)
        pivots = rows[..., :size].diagonal(dim1=-2, dim2=-1)
        return ComplexPair(matrix=rows[..., size:] / pivots.sqrt().unsqueeze(-1))


def _for_blocks(scale: Any) -> Any:
    """Real factors of rows or columns, for both of each block."""
    if not isinstance(scale, Tensor):
        return scale
    for dim in range(-min(scale.dim(), 2), 0):
        if scale.shape[dim] != 1:
            both = torch.arange(scale.shape[dim], device=scale.device).repeat_interleave(2)
            scale = scale.index_select(dim, both)
    return scale


def _of_blocks(index: Any, dims: int) -> Any:
    """The index of the same rows and columns in a matrix of blocks; None where they are not ranges."""
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in [each if each is Ellipsis else None for each in index]:
        at = next(place for place, each in enumerate(index) if each is Ellipsis)
        index = (*index[:at], *[WHOLE] * (dims - len(index) + 1), *index[at + 1 :])
    leading, ranges = index[: dims - 2], index[dims - 2 :]
    if not all(isinstance(each, slice) and each.step is None for each in ranges):
        return None
    double = [slice(*(None if end is None else 2 * end for end in (each.start, each.stop))) for each in ranges]
    return (*leading, *double)


def _paired(results: Any) -> Any:
    real, imag = results
    if isinstance(real, Tensor):
        return ComplexPair(real, imag)
    return tuple(ComplexPair(*parts) for parts in zip(real, imag, strict=True))


def _cat(pairs: Any, dim: int = 0) -> ComplexPair:
    if pairs[0].dim() >= 2:
        return ComplexPair(matrix=torch.cat([pair.matrix for pair in pairs], dim=dim))
    return ComplexPair(*(torch.cat(parts, dim=dim) for parts in zip(*(pair.parts for pair in pairs), strict=True)))


def _stack(pairs: Any, dim: int = 0) -> ComplexPair:
    if 0 <= dim <= pairs[0].dim() - 2:
        return ComplexPair(matrix=torch.stack([pair.matrix for pair in pairs], dim=dim))
    return ComplexPair(*(torch.stack(parts, dim=dim) for parts in zip(*(pair.parts for pair in pairs), strict=True)))


def _view_as_real(pair: ComplexPair) -> Tensor:
    if pair._matrix is None:
        return torch.stack(pair.parts, dim=-1)
    return pair._matrix[..., ::2].unflatten(-2, (-1, 2)).transpose(-1, -2)


def _solve(system: ComplexPair, right: ComplexPair | None = None) -> ComplexPair:
    """Of Hermitian and positive definite systems L D L^H: (L^-1)^H (D^-1 L^-1 right); without ``right`` the inverse."""
    matrix, size = system.matrix, system.matrix.shape[-1]
    identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device).expand(matrix.shape)
    rows, scaled = eliminate(matrix, identity if right is None else torch.cat([identity, right.matrix], dim=-1))
    begin = size if right is None else 2 * size
    return ComplexPair(matrix=rows[..., size : 2 * size].mT @ scaled[..., begin:])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "cat": _cat,
    "stack": _stack,
    "expand_as": lambda tensor, like: tensor.expand(*like.shape),
    "pad": lambda pair, pads, **kwargs: ComplexPair(matrix=F.pad(pair.matrix, [2 * each for each in pads], **kwargs)),
    "view_as_real": _view_as_real,
    "linalg_solve_ex": lambda system, right: (_solve(system, right), None),
    "linalg_inv_ex": lambda system: (_solve(system), None),
    "linalg_cholesky_ex": lambda system: (Factor(system), None),
    "linalg_solve_triangular": lambda factor, right, *, upper: factor.whiten(right),
    "mul": lambda left, right: right * left,
    "add": lambda left, right: right + left,
}

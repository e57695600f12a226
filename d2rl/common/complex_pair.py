r"""Complex tensors as pairs of real ones, for runtimes without complex numbers: the same physics runs on both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BOTH = (  # methods that treat the real and the imaginary part alike
    *("contiguous", "cumsum", "diagonal", "expand", "expand_as", "flatten", "masked_fill", "mean", "permute", "repeat"),
    *("repeat_interleave", "reshape", "select", "sum", "transpose", "unflatten", "unsqueeze", "squeeze"),
    *("split", "tensor_split", "unbind", "chunk", "__getitem__"),
)
REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}
COMPLEX = {real: kind for kind, real in REAL.items()}


class ComplexPair:
    """A complex tensor as its real and imaginary part; operators and the torch functions of the physics take it.

    Example::

        pair = ComplexPair.of(torch.randn(3, 4, dtype=torch.complex64))
        torch.view_as_real(pair.mH @ pair)

    :param real: real part
    :param imag: imaginary part, of the same shape
    """

    def __init__(self, real: Tensor, imag: Tensor):
        self.real, self.imag = real, imag

    @classmethod
    def of(cls, numbers: Tensor) -> ComplexPair:
        """From a complex tensor, or from a real one whose last dimension holds the two parts."""
        parts = torch.view_as_real(numbers.resolve_conj()) if numbers.is_complex() else numbers
        return cls(*parts.unbind(-1))

    @property
    def shape(self) -> torch.Size:
        """As of a tensor."""
        return self.real.shape

    @property
    def device(self) -> torch.device:
        """As of a tensor."""
        return self.real.device

    @property
    def dtype(self) -> torch.dtype:
        """That of the complex tensor that it stands for."""
        return COMPLEX[self.real.dtype]

    @property
    def mT(self) -> ComplexPair:  # noqa: N802
        """As of a tensor."""
        return self.transpose(-2, -1)

    @property
    def mH(self) -> ComplexPair:  # noqa: N802
        """As of a tensor."""
        return self.mT.conj()

    def dim(self) -> int:
        """As of a tensor."""
        return self.real.dim()

    def resolve_conj(self) -> ComplexPair:
        """As of a tensor."""
        return self

    def is_complex(self) -> bool:
        """It stands for complex numbers."""
        return True

    def conj(self) -> ComplexPair:
        """As of a tensor."""
        return ComplexPair(self.real, -self.imag)

    def abs(self) -> Tensor:
        """As of a tensor."""
        return (self.real.square() + self.imag.square()).sqrt()

    def to(self, kind: torch.dtype) -> ComplexPair:
        """In another precision."""
        return ComplexPair(self.real.to(REAL[kind]), self.imag.to(REAL[kind]))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in BOTH:
            raise AttributeError(f"complex pairs have no {name}")
        return lambda *args, **kwargs: _paired(getattr(part, name)(*args, **kwargs) for part in (self.real, self.imag))

    def __getitem__(self, index: Any) -> ComplexPair:
        return ComplexPair(self.real[index], self.imag[index])

    def __neg__(self) -> ComplexPair:
        return ComplexPair(-self.real, -self.imag)

    def __add__(self, other: Any) -> ComplexPair:
        if isinstance(other, ComplexPair):
            return ComplexPair(self.real + other.real, self.imag + other.imag)
        return ComplexPair(self.real + other, self.imag)

    def __sub__(self, other: Any) -> ComplexPair:
        return self + -other

    def __mul__(self, other: Any) -> ComplexPair:
        return self._times(other, torch.mul)

    def __matmul__(self, other: Any) -> ComplexPair:
        return self._times(other, torch.matmul)

    def __truediv__(self, other: Tensor | float) -> ComplexPair:
        return ComplexPair(self.real / other, self.imag / other)

    def _times(self, other: Any, product: Callable[[Tensor, Any], Tensor]) -> ComplexPair:
        if not isinstance(other, ComplexPair):
            return ComplexPair(product(self.real, other), product(self.imag, other))
        real = product(self.real, other.real) - product(self.imag, other.imag)
        return ComplexPair(real, product(self.real, other.imag) + product(self.imag, other.real))

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
        self.device, self.dtype = system.device, system.real.dtype

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return ComplexPair.__torch_function__(function, types, args, kwargs)

    def whiten(self, right: ComplexPair | Tensor) -> ComplexPair:
        """L^-1 right."""
        right = right if isinstance(right, ComplexPair) else ComplexPair(right, torch.zeros_like(right))
        return ComplexPair(*whiten(self.system.real, self.system.imag, right.real, right.imag))


def _paired(results: Any) -> Any:
    real, imag = results
    if isinstance(real, Tensor):
        return ComplexPair(real, imag)
    return tuple(ComplexPair(*parts) for parts in zip(real, imag, strict=True))


def _joined(join: Callable[..., Tensor]) -> Callable[..., ComplexPair]:
    def function(pairs: Any, *args: Any, **kwargs: Any) -> ComplexPair:
        parts = ([pair.real for pair in pairs], [pair.imag for pair in pairs])
        return ComplexPair(*(join(each, *args, **kwargs) for each in parts))

    return function


def _inverse(system: ComplexPair) -> ComplexPair:
    """Of Hermitian and positive definite systems: L^-H L^-1."""
    identity = torch.eye(system.shape[-1], dtype=system.real.dtype, device=system.device)
    whitened = Factor(system).whiten(identity.expand(system.shape))
    return whitened.mH @ whitened


def _solve(system: ComplexPair, right: ComplexPair) -> ComplexPair:
    """Of Hermitian and positive definite systems: L^-H (L^-1 right)."""
    identity = torch.eye(system.shape[-1], dtype=system.real.dtype, device=system.device).expand(system.shape)
    wide = ComplexPair(torch.cat([right.real, identity], -1), torch.cat([right.imag, torch.zeros_like(identity)], -1))
    whitened, columns = Factor(system).whiten(wide), right.shape[-1]
    return whitened[..., columns:].mH @ whitened[..., :columns]


@torch.library.custom_op("d2rl::whiten", mutates_args=())
def whiten(system_real: Tensor, system_imag: Tensor, right_real: Tensor, right_imag: Tensor) -> tuple[Tensor, Tensor]:
    """L^-1 right in two parts, where the system is L L^H with a lower triangular L.

    One operator, so that an exporter may write its own elimination for it.

    :param system_real: [..., n, n], of a Hermitian and positive definite matrix
    :param system_imag: the same
    :param right_real: [..., n, m], with the same leading dimensions
    :param right_imag: the same
    """
    system, right = torch.complex(system_real, system_imag), torch.complex(right_real, right_imag)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky_ex(system)[0], right, upper=False)
    return whitened.real.clone(), whitened.imag.clone()


@whiten.register_fake
def _(system_real: Tensor, system_imag: Tensor, right_real: Tensor, right_imag: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(right_real), torch.empty_like(right_real)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "cat": _joined(torch.cat),
    "stack": _joined(torch.stack),
    "expand_as": lambda tensor, like: tensor.expand(like.shape),
    "pad": lambda pair, *args, **kwargs: ComplexPair(*(F.pad(x, *args, **kwargs) for x in (pair.real, pair.imag))),
    "view_as_real": lambda pair: torch.stack([pair.real, pair.imag], dim=-1),
    "linalg_solve_ex": lambda system, right: (_solve(system, right), None),
    "linalg_inv_ex": lambda system: (_inverse(system), None),
    "linalg_cholesky_ex": lambda system: (Factor(system), None),
    "linalg_solve_triangular": lambda factor, right, *, upper: factor.whiten(right),
    "mul": lambda left, right: right * left,
    "add": lambda left, right: right + left,
}

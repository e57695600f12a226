"""What a CUDA graph can capture: which operators wait for the device, which libraries refuse, and what stands in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# A host waits for these: their result is a Python number, or a tensor whose shape or error depends on values.
WAITING = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "nonzero_numpy", "masked_select"),
    *("unique", "_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
    *("repeat_interleave", "bincount", "histc", "allclose"),
    *("linalg_cholesky", "linalg_solve", "linalg_inv", "_linalg_check_errors"),
    "lift_fresh",  # a tensor made of Python's numbers, which a device must be sent
}


class Waits(TorchDispatchMode):
    """Lists the operators that would make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        booleans = any(isinstance(leaf, Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(args[1:2]))
        if name in WAITING or (name in ("index", "index_put", "index_put_") and booleans):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class Watched(TorchDispatchMode):
    """Remembers the operator that failed, or the latest one, and the line of d2rl that asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.latest: tuple[str, str] | None = None
        self.failed = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not self.failed:
            self.latest = str(func), _asked_by()
        try:
            return func(*args, **(kwargs or {}))
        except RuntimeError:
            self.failed = True
            raise

    def __str__(self) -> str:
        if self.latest is None:
            return "before the first operator"
        operator, line = self.latest
        return f"{'at' if self.failed else 'after'} {operator}, {line}"


class ElementaryAlgebra(TorchDispatchMode):
    """Factorisations and solves by elementary operators, which any graph captures, in place of a library's.

    Without pivoting: for systems that are Hermitian and positive definite, as all of an update are. In forward and
    backward passes alike, since it acts below autograd.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run one operator, or what stands in for it."""
        kwargs = kwargs or {}
        if func not in STAND_INS:
            return func(*args, **kwargs)
        return STAND_INS[func](*(_written_out(one) for one in args), **kwargs)


def cholesky(matrix: Tensor, upper: bool = False, check_errors: bool = False) -> tuple[Tensor, Tensor]:
    """As ``torch.linalg.cholesky_ex``; NaN where there is no factor, with an info of 0."""
    rest, factor = matrix.clone(), torch.zeros_like(matrix)
    for k in range(matrix.shape[-1]):
        column = rest[..., k:, k] / rest[..., k : k + 1, k].real.sqrt()
        factor[..., k:, k] = column
        rest[..., k + 1 :, k + 1 :] -= column[..., 1:, None] * column[..., None, 1:].conj_physical()
    return _adjoint(factor) if upper else factor, _info(matrix)


def solve_triangular(
    matrix: Tensor, right: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Tensor:
    """As ``torch.linalg.solve_triangular``."""
    if not left:
        return solve_triangular(matrix.mT, right.mT, upper=not upper, unitriangular=unitriangular).mT
    size = matrix.shape[-1]
    batch = torch.broadcast_shapes(matrix.shape[:-2], right.shape[:-2])
    found = right.expand(*batch, *right.shape[-2:]).clone()
    for k in reversed(range(size)) if upper else range(size):
        if not unitriangular:
            found[..., k, :] /= matrix[..., k, k, None]
        others = slice(0, k) if upper else slice(k + 1, size)
        found[..., others, :] -= matrix[..., others, k, None] * found[..., k, None, :]
    return found


def solve(
    matrix: Tensor, right: Tensor, *, left: bool = True, check_errors: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As ``torch.linalg.solve_ex``, with the factors that its gradient needs."""
    factors = matrix.clone()
    for k in range(matrix.shape[-1] - 1):
        factors[..., k + 1 :, k] /= factors[..., k, k, None]
        factors[..., k + 1 :, k + 1 :] -= factors[..., k + 1 :, k, None] * factors[..., k, None, k + 1 :]
    pivots = torch.arange(1, matrix.shape[-1] + 1, dtype=torch.int32, device=matrix.device)
    pivots = pivots.expand(matrix.shape[:-1])
    vector = right.shape == matrix.shape[:-1]
    columns = right.unsqueeze(-1) if vector else right
    found = lu_solve(factors, pivots, columns, left=left or vector)
    return found.squeeze(-1) if vector else found, factors, pivots, _info(matrix)


def lu_solve(factors: Tensor, pivots: Tensor, right: Tensor, *, left: bool = True, adjoint: bool = False) -> Tensor:
    """As ``torch.linalg.lu_solve`` for the factors of :func:`solve`, whose pivots are none."""
    if not left:
        return _adjoint(lu_solve(factors, pivots, _adjoint(right), adjoint=not adjoint))
    if adjoint:
        half = solve_triangular(_adjoint(factors), right, upper=False)
        return solve_triangular(_adjoint(factors), half, upper=True, unitriangular=True)
    return solve_triangular(factors, solve_triangular(factors, right, upper=False, unitriangular=True), upper=True)


def inverse(matrix: Tensor, *, check_errors: bool = False) -> tuple[Tensor, Tensor]:
    """As ``torch.linalg.inv_ex``."""
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    found, _, _, info = solve(matrix, identity.expand_as(matrix))
    return found, info


@contextmanager
def cusolver() -> Iterator[None]:
    """Linear algebra by cuSOLVER: MAGMA, which torch may choose for many matrices of more than 16 rows, allocates."""
    before = torch.backends.cuda.preferred_linalg_library()
    torch.backends.cuda.preferred_linalg_library("cusolver")
    try:
        yield
    finally:
        torch.backends.cuda.preferred_linalg_library(before)


_aten = torch.ops.aten
STAND_INS: dict[Any, Callable[..., Any]] = {
    _aten.linalg_cholesky_ex.default: cholesky,
    _aten.linalg_solve_triangular.default: solve_triangular,
    _aten._linalg_solve_ex.default: solve,
    _aten.linalg_lu_solve.default: lu_solve,
    _aten.linalg_inv_ex.default: inverse,
}


def refused_operators(device: torch.device) -> dict[str, str]:
    """Of the operators that :class:`ElementaryAlgebra` replaces, those that a graph does not capture, and why.

    :param device: a GPU
    """
    system = 2 * torch.eye(8, dtype=torch.complex128, device=device).repeat(64, 1, 1)
    work = {
        "linalg_cholesky_ex": lambda: torch.linalg.cholesky_ex(system),
        "linalg_solve_triangular": lambda: torch.linalg.solve_triangular(system, system, upper=False),
        "_linalg_solve_ex": lambda: torch.linalg.solve_ex(system, system),
        "linalg_lu_solve": lambda: torch.linalg.lu_solve(*torch.linalg.lu_factor_ex(system)[:2], system),
        "linalg_inv_ex": lambda: torch.linalg.inv_ex(system),
    }
    refused, stream, current = {}, torch.cuda.Stream(device), torch.cuda.current_stream(device)
    for name, one in work.items():
        stream.wait_stream(current)
        with cusolver(), torch.cuda.stream(stream):
            one()
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with cusolver(), torch.cuda.graph(graph, stream=stream):
                one()
            graph.replay()
            torch.cuda.synchronize(device)
        except RuntimeError as error:
            torch.cuda.set_stream(current)  # a capture that failed leaves its own stream behind
            refused[name] = str(error.__context__ or error).strip().partition("\n")[0]
    return refused


def _adjoint(matrix: Tensor) -> Tensor:
    return matrix.mT.conj_physical()


def _written_out(one: Any) -> Any:
    """A tensor without a conjugate bit, which nothing below autograd looks at."""
    return one.conj().conj_physical() if isinstance(one, Tensor) and one.is_conj() else one


def _info(matrix: Tensor) -> Tensor:
    return torch.zeros(matrix.shape[:-2], dtype=torch.int32, device=matrix.device)


def _asked_by() -> str:
    """The innermost line of d2rl outside this file; of a backward pass there is none."""
    frame = sys._getframe(2)
    package = str(Path(__file__).resolve().parents[1])
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(package) and path != __file__:
            return f"{Path(path).relative_to(Path(package).parent)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "in a backward pass"

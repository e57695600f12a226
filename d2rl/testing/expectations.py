"""What the checks have in common: comparisons that say what does not hold."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor


def same(first: Any, second: Any, what: str) -> None:
    """Make sure that two structures of tensors are equal, bit by bit."""
    pairs = zip(first.tensors().items(), second.tensors().values(), strict=True)
    for (name, one), other in pairs:
        expect(torch.equal(one, other), f"{what}: {name} differs")


def written_and_read(content: Any) -> Any:
    """What is left of plain containers and tensors after saving and loading."""
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def finite(tensor: Tensor, what: str) -> None:
    """Make sure that no number is NaN or infinite."""
    numbers = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    expect(bool(numbers.isfinite().all()), f"{what} holds NaN or infinite values")


def expect(condition: bool, otherwise: str) -> None:
    """Raise AssertionError with a message, unless a condition holds."""
    if not condition:
        raise AssertionError(otherwise)


def generator(seed: int) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)

"""Frozen dataclasses of tensors: one way to map, index, move, repeat and store them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Self, cast

import torch
from torch import Tensor

from d2rl.common.complex_pair import ComplexPair

NUMBERS = (Tensor, ComplexPair)


class TensorStruct:
    """Base of a frozen dataclass whose fields are tensors, other such structs, or plain values.

    Tensors share their first dimension, the batch. None and plain values stay as they are.

    Example::

        @dataclass(frozen=True)
        class Queues(TensorStruct):
            bits: Tensor  # [B, K]
            slot: int = 0

        first = Queues(torch.zeros(4, 10))[:2]
    """

    @property
    def batch(self) -> int:
        """Number of rows B."""
        return next(iter(self.tensors().values())).shape[0]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by dotted name."""
        found: dict[str, Tensor] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, NUMBERS):
                found[field.name] = cast(Tensor, value)
            elif isinstance(value, TensorStruct):
                found |= {f"{field.name}.{name}": tensor for name, tensor in value.tensors().items()}
        return found

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """The same struct with other tensors, by dotted name; the inverse of :meth:`tensors`."""
        return self._with(tensors, "")

    def values(self) -> dict[str, Any]:
        """All numbers and texts by dotted name."""
        found: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, bool | int | float | str):
                found[field.name] = value
            elif isinstance(value, TensorStruct):
                found |= {f"{field.name}.{name}": one for name, one in value.values().items()}
        return found

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """The same struct with other numbers and texts, by dotted name; those that are not named stay."""
        changed: dict[str, Any] = {}
        for name, value in values.items():
            own, _, inner = name.partition(".")
            changed[own] = changed.get(own, getattr(self, own)).with_values({inner: value}) if inner else value
        return replace(self, **changed)  # type: ignore[type-var]

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply ``function`` to each tensor."""
        changed: dict[str, Any] = {}  # in one pass: every update does this some times
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, NUMBERS):
                changed[field.name] = function(cast(Tensor, value))
            elif isinstance(value, TensorStruct):
                changed[field.name] = value.map(function)
        return replace(self, **changed)  # type: ignore[type-var]

    def __getitem__(self, index: Tensor | slice) -> Self:
        """Rows selected along the batch."""
        return self.map(lambda tensor: tensor[index])

    def to(self, device: torch.device) -> Self:
        """The same on another device; a Trainer moves batches by it."""
        return self.map(lambda tensor: tensor.to(device))

    def repeat(self, copies: int) -> Self:
        """Each row ``copies`` times in a row: batch B becomes B * copies. Write into none: they may be one memory."""
        return self if copies == 1 else self.map(lambda tensor: repeated(tensor, copies))

    def with_rows(self, rows: slice, other: Self) -> Self:
        """A copy in which these rows are those of ``other``."""
        own, new = self.tensors(), other.tensors()
        return self.with_tensors({name: _replaced(tensor, rows, new[name]) for name, tensor in own.items()})

    def _with(self, tensors: Mapping[str, Tensor], prefix: str) -> Self:
        changed: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, NUMBERS):
                changed[field.name] = tensors[prefix + field.name]
            elif isinstance(value, TensorStruct):
                changed[field.name] = value._with(tensors, f"{prefix}{field.name}.")
        return replace(self, **changed)  # type: ignore[type-var]


def repeated(tensor: Tensor, copies: int) -> Tensor:
    """Each row ``copies`` times in a row: [B, ...] becomes [B copies, ...]; copies of a single row are views of it."""
    return tensor if copies == 1 else tensor.unsqueeze(1).expand(-1, copies, *tensor.shape[1:]).flatten(0, 1)


def _replaced(tensor: Tensor, rows: slice, new: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor[rows] = new
    return tensor

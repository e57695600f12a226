"""Dataclasses of tensors: names, mapping, rows, copies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from d2rl.common.tensor_struct import TensorStruct, repeated


@dataclass(frozen=True)
class Inner(TensorStruct):
    power: Tensor  # [B, 2]
    phase: Tensor | None = None  # [B]


@dataclass(frozen=True)
class Outer(TensorStruct):
    inner: Inner
    flag: Tensor  # [B] bool
    known: Any = None
    slot: int = 0
    name: str = "cell"


def numbered(count: int, first: int = 0, **others: Any) -> Outer:
    number = torch.arange(first, first + count)
    return Outer(Inner(torch.stack([number, -number], dim=-1).float(), number.double()), number % 2 == 0, **others)


def test_tensors_have_dotted_names_in_the_order_of_the_fields():
    struct = numbered(3, known=Inner(torch.ones(3, 2)))
    assert list(struct.tensors()) == ["inner.power", "inner.phase", "flag", "known.power"]
    assert struct.tensors()["inner.power"] is struct.inner.power
    assert struct.batch == 3


def test_what_is_not_there_has_no_name_and_stays_away():
    struct = Outer(Inner(torch.ones(2, 2)), torch.ones(2))
    assert list(struct.tensors()) == ["inner.power", "flag"]
    moved = struct.map(lambda tensor: tensor + 1)
    assert (moved.inner.phase, moved.known) == (None, None)


def test_with_tensors_is_the_inverse_of_tensors():
    struct, other = numbered(3, slot=4), numbered(5, first=7)
    again = struct.with_tensors(other.tensors())
    assert all(again.tensors()[name] is tensor for name, tensor in other.tensors().items())
    assert (again.slot, again.name) == (4, "cell")
    assert type(again.inner) is Inner
    with pytest.raises(KeyError, match="flag"):
        struct.with_tensors({"inner.power": torch.ones(1, 2), "inner.phase": torch.ones(1)})


def test_values_are_the_plain_ones_and_can_be_replaced():
    struct = numbered(2, slot=4, name="a")
    assert struct.values() == {"slot": 4, "name": "a"}
    again = struct.with_values({"slot": 5})
    assert again.values() == {"slot": 5, "name": "a"}
    assert again.flag is struct.flag
    outer = Outer(numbered(2, slot=4, name="a"), torch.ones(2), slot=1)
    assert outer.values() == {"inner.slot": 4, "inner.name": "a", "slot": 1, "name": "cell"}
    moved = outer.with_values({"inner.slot": 7, "inner.name": "b", "slot": 2})
    assert moved.values() == {"inner.slot": 7, "inner.name": "b", "slot": 2, "name": "cell"}


def test_map_reaches_every_tensor_and_changes_no_original():
    struct = numbered(3)
    doubled = struct.map(lambda tensor: tensor * 2)
    assert all(torch.equal(tensor, 2 * struct.tensors()[name]) for name, tensor in doubled.tensors().items())
    assert struct.inner.power[1].tolist() == [1, -1]


@pytest.mark.parametrize("index", [slice(1, 3), torch.tensor([3, 0, 0])], ids=["slice", "chosen"])
def test_an_index_selects_rows_of_every_tensor(index):
    struct = numbered(4)
    assert all(torch.equal(tensor, struct.tensors()[name][index]) for name, tensor in struct[index].tensors().items())


def test_to_moves_every_tensor():
    moved = numbered(2).to(torch.device("meta"))
    assert {tensor.device.type for tensor in moved.tensors().values()} == {"meta"}


def test_repeat_puts_the_copies_of_a_row_side_by_side():
    struct = numbered(3).repeat(2)
    assert struct.batch == 6
    for tensor in struct.tensors().values():
        assert torch.equal(tensor[0::2], tensor[1::2])
    assert struct.inner.phase.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("batch", "copies"), [(1, 1), (1, 5), (4, 1), (4, 3)])
def test_a_repeated_tensor_is_that_of_a_loop(batch, copies):
    tensor = torch.randn(batch, 2, 3, generator=torch.Generator().manual_seed(0))
    found = repeated(tensor, copies)
    assert found.shape == (batch * copies, 2, 3)
    for row in range(batch * copies):
        assert torch.equal(found[row], tensor[row // copies])


@pytest.mark.parametrize("rows", [slice(0, 2), slice(2, None, 2), slice(5, None)], ids=str)
def test_with_rows_exchanges_those_rows_and_copies(rows):
    struct = numbered(5, slot=3)
    count = len(range(*rows.indices(5)))
    changed = struct.with_rows(rows, numbered(count, first=10))
    expected = torch.arange(5).double()
    expected[rows] = torch.arange(10, 10 + count).double()
    assert torch.equal(changed.inner.phase, expected)
    assert torch.equal(changed.flag, expected % 2 == 0)
    assert torch.equal(struct.inner.phase, torch.arange(5).double())
    assert changed.slot == 3


def test_a_struct_is_frozen():
    with pytest.raises(AttributeError):
        numbered(2).slot = 1  # type: ignore[misc]
    assert replace(numbered(2), slot=1).slot == 1

"""Replay buffer: a ring of preallocated tensors on the device."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from d2rl.problems.base import Transition


class ReplayBuffer:
    """Keeps the last ``capacity`` transitions.

    Storage is allocated by the first :meth:`add`, in the shapes that it brings. A transition with a number that
    is not finite is not stored: a finite one of its batch takes its place, and it is counted on the device.

    :param capacity: transitions kept
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.storage: dict[str, Tensor] = {}  # dotted name of a tensor of Transition -> [capacity, ...]
        self.form: Transition | None = None  # a batch as it was added; its tensors are not used
        self.position = 0
        self.filled = 0
        self.bound = torch.zeros((), dtype=torch.float64)  # ``filled`` on the device, where captured updates read it
        self.refused: Tensor | int = 0

    def __len__(self) -> int:
        return self.filled

    @property
    def ready(self) -> bool:
        """Whether there is something to sample."""
        return self.filled > 0 and self.form is not None

    def add(self, batch: Transition) -> None:
        """Write a batch of transitions over the oldest ones.

        :raises ValueError: a batch larger than the buffer
        """
        self.form, transitions = batch, batch.tensors()
        count, device = next((tensor.shape[0], tensor.device) for tensor in transitions.values())
        if count > self.capacity:
            raise ValueError(f"a batch of {count} does not fit a replay buffer of {self.capacity}")
        if not self.storage:
            self.storage = {
                name: torch.empty((self.capacity, *tensor.shape[1:]), dtype=tensor.dtype, device=device)
                for name, tensor in transitions.items()
            }
            self.bound = self.bound.to(device)
        index = (torch.arange(count, device=device) + self.position) % self.capacity
        finite = _finite(transitions)
        self.refused = self.refused + (~finite).sum()
        source = torch.where(finite, torch.arange(count, device=device), finite.int().argmax())
        for name, tensor in transitions.items():
            self.storage[name].index_copy_(0, index, tensor.detach().index_select(0, source))
        self.position = (self.position + count) % self.capacity
        self.filled = min(self.filled + count, self.capacity)
        self.bound.fill_(self.filled)

    def sample(self, count: int, generator: torch.Generator) -> Transition:
        """``count`` transitions, uniform with replacement.

        :param generator: on the device of the buffer
        :raises ValueError: an empty buffer, or a loaded one to which nothing was added since
        """
        if not self.ready or self.form is None:
            raise ValueError("nothing to sample: the replay buffer is empty, or no batch was added since it was loaded")
        uniform = torch.rand(count, dtype=torch.float64, generator=generator, device=self.bound.device)
        # the largest number below 1 times the bound rounds to less than the bound: float64 has digits to spare
        index = (uniform * self.bound).long()
        return self.at(index)

    def newest(self, count: int) -> Transition:
        """The ``count`` transitions that were added last, in their order."""
        return self.at((torch.arange(count, device=self.bound.device) + self.position - count) % self.capacity)

    def at(self, index: Tensor) -> Transition:
        """The transitions in these rows of the ring.

        :param index: [n], int64
        """
        assert self.form is not None
        return self.form.with_tensors({name: tensor.index_select(0, index) for name, tensor in self.storage.items()})

    def refused_transitions(self) -> int:
        """Transitions that were not finite since the last call; waits for the device."""
        count, self.refused = int(self.refused), 0
        return count

    def state_dict(self) -> dict[str, Any]:
        """The filled part of the ring, as plain containers."""
        kept = {name: tensor[: self.filled].clone() for name, tensor in self.storage.items()}
        return {"storage": kept, "position": self.position, "filled": self.filled}

    def load_state_dict(self, saved: dict[str, Any], device: torch.device) -> None:
        """Continue from a saved buffer; of a full one of another capacity, the latest transitions are kept."""
        storage, self.position, self.filled = saved["storage"], saved["position"], saved["filled"]
        if not (self.filled == self.capacity or self.position == self.filled < self.capacity):
            storage = {name: tensor.roll(-self.position, 0)[-self.capacity :] for name, tensor in storage.items()}
            self.filled = min(self.filled, self.capacity)
            self.position = self.filled % self.capacity
        for name, tensor in storage.items():
            ring = torch.empty((self.capacity, *tensor.shape[1:]), dtype=tensor.dtype, device=device)
            ring[: self.filled] = tensor.to(device)
            self.storage[name] = ring
        self.bound = torch.full_like(self.bound, self.filled, device=device)


def _finite(transitions: dict[str, Tensor]) -> Tensor:
    """[B] bool: which transitions are finite as a whole. A sum is finite only where all its terms are."""
    real = (torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in transitions.values())
    rows = (t.detach().reshape(len(t), math.prod(t.shape[1:])) for t in real)
    return torch.isfinite(torch.stack([row.sum(1).double() for row in rows]).sum(0))

"""Replay buffer: a ring of preallocated tensors on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ReplayBuffer:
    """Keeps the last ``capacity`` transitions, each a dictionary of tensors.

    Storage is allocated by the first :meth:`add`, in the shapes that it brings.

    :param capacity: transitions kept
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.storage: dict[str, Tensor] = {}
        self.position = 0
        self.filled = 0

    def __len__(self) -> int:
        return self.filled

    def add(self, transitions: dict[str, Tensor]) -> None:
        """Write a batch of transitions over the oldest ones.

        :param transitions: name -> [B, ...]
        :raises ValueError: a batch larger than the buffer
        """
        count, device = next((tensor.shape[0], tensor.device) for tensor in transitions.values())
        if count > self.capacity:
            raise ValueError(f"a batch of {count} does not fit a replay buffer of {self.capacity}")
        if not self.storage:
            self.storage = {
                name: torch.empty((self.capacity, *tensor.shape[1:]), dtype=tensor.dtype, device=device)
                for name, tensor in transitions.items()
            }
        index = (torch.arange(count, device=device) + self.position) % self.capacity
        for name, tensor in transitions.items():
            self.storage[name].index_copy_(0, index, tensor.detach())
        self.position = (self.position + count) % self.capacity
        self.filled = min(self.filled + count, self.capacity)

    def sample(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """``count`` transitions, uniform with replacement.

        :param generator: on the device of the buffer
        """
        device = next(iter(self.storage.values())).device
        index = torch.randint(self.filled, (count,), generator=generator, device=device)
        return {name: tensor.index_select(0, index) for name, tensor in self.storage.items()}

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

"""The channels of one full-duplex cell, batched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from d2rl.common.errors import InputError
from d2rl.common.tensor_struct import TensorStruct


@dataclass(frozen=True)
class ChannelState(TensorStruct):
    """Noise-normalised channels of B states; noise, P_BS and P_UE are folded in.

    One direction may be without users (half duplex): its arrays, and the cross channels, are then empty.

    :param downlink: [B, K_D, N_t], complex; ``downlink[b, j]`` is g_j, the user receives g_j^H w
    :param uplink: [B, K_U, N_r], complex; ``uplink[b, k]`` is h_k
    :param cross: [B, K_U, K_D], complex; ``cross[b, k, j]`` is f_kj
    :param self_interference: [B, N_r, N_t], complex; H_S
    """

    downlink: Tensor
    uplink: Tensor
    cross: Tensor
    self_interference: Tensor

    @property
    def downlink_users(self) -> int:
        """K_D."""
        return self.downlink.shape[-2]

    @property
    def uplink_users(self) -> int:
        """K_U."""
        return self.uplink.shape[-2]

    @property
    def links(self) -> int:
        """K_D + K_U."""
        return self.downlink_users + self.uplink_users

    @property
    def half_duplex(self) -> bool:
        """Whether one direction has no users, so that self-interference disturbs nobody."""
        return not (self.downlink_users and self.uplink_users)

    def active(self) -> dict[str, Tensor]:
        """What plays a part in the rates: with one direction alone its users' channels, else all four."""
        if not self.uplink_users:
            return {"downlink": self.downlink}
        return self.tensors() if self.downlink_users else {"uplink": self.uplink}

    @property
    def transmit_antennas(self) -> int:
        """N_t."""
        return self.downlink.shape[-1]

    @property
    def receive_antennas(self) -> int:
        """N_r."""
        return self.uplink.shape[-1]

    def directions(self) -> list[ChannelState]:
        """The downlink without the uplink, and the uplink without the downlink, those that have users."""
        none, alone = slice(0, 0), []
        if self.downlink_users:
            alone.append(replace(self, uplink=self.uplink[:, none], cross=self.cross[:, none]))
        if self.uplink_users:
            alone.append(replace(self, downlink=self.downlink[:, none], cross=self.cross[..., none]))
        return alone

    def double(self) -> ChannelState:
        """The same channels in double precision."""
        return self.map(lambda tensor: tensor.to(torch.complex128))

    def permute_users(self, downlink: Sequence[int], uplink: Sequence[int]) -> ChannelState:
        """The same cell with its users in another order."""
        down, up = list(downlink), list(uplink)
        return ChannelState(
            self.downlink[:, down],
            self.uplink[:, up],
            self.cross[:, up][:, :, down],
            self.self_interference,
        )

    def validate(self) -> ChannelState:
        """Check shapes and values once, where channels enter.

        :raises InputError: no users at all, no antennas, shapes that do not fit, NaN or infinite values
        """
        b, k_d, n_t = _shape(self.downlink, "downlink")
        _, k_u, n_r = _shape(self.uplink, "uplink")
        if b == 0:
            raise InputError("channels hold no state; their first axis must be 1 at least.")
        if k_d + k_u == 0 or min(n_t, n_r) == 0:
            raise InputError(
                f"channels need at least one user, and one antenna in each direction, "
                f"got {k_d} downlink and {k_u} uplink users, {n_t} and {n_r} antennas"
            )
        expected = {"uplink": (b, k_u, n_r), "cross": (b, k_u, k_d), "self_interference": (b, n_r, n_t)}
        for name, shape in expected.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise InputError(f"channels.{name} has shape {found}, the others ask for {shape}")
        for name, tensor in self.tensors().items():
            if not tensor.is_complex():
                raise InputError(f"channels.{name} must be complex, got {tensor.dtype}")
            if not torch.isfinite(torch.view_as_real(tensor.resolve_conj())).all():
                raise InputError(f"channels.{name} holds NaN or infinite values; remove those states")
        return self


def concatenate(states: Sequence[ChannelState]) -> ChannelState:
    """Join batches of states along the batch."""
    names = states[0].tensors()
    return ChannelState(**{n: torch.cat([getattr(s, n) for s in states]) for n in names})


def with_silent_direction(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The channels of one direction [..., K, N] with those of the other: no users, one antenna, nothing received."""
    ((name, own),) = given.items()
    uplink, lead, (users, antennas) = name == "uplink", own.shape[:-2], own.shape[-2:]
    shapes = {
        "downlink" if uplink else "uplink": (0, 1),
        "cross": (users, 0) if uplink else (0, users),
        "self_interference": (antennas, 1) if uplink else (1, antennas),
    }
    return given | {key: own.new_zeros(*lead, *shape) for key, shape in shapes.items()}


def _shape(tensor: Tensor, name: str) -> tuple[int, ...]:
    if tensor.dim() != 3:
        raise InputError(
            f"channels.{name} needs 3 dimensions (states, users, antennas), got shape {tuple(tensor.shape)}"
        )
    return tuple(tensor.shape)

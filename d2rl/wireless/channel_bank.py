"""A bank of channel states, measured or precomputed, beside what is known of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from d2rl.common.tensor_struct import TensorStruct
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.link_rates import squared_magnitude
from d2rl.wireless.propagation import LinkBudget, LinkGains, Positions, from_db


@dataclass(frozen=True)
class ChannelBank(TensorStruct):
    """N channel states with what is known of them.

    :param channels: N states
    :param gains: mean gain of every coefficient, on the scale of ``channels``
    :param weights: [N, K_D + K_U], priority of every link
    :param positions: of the users; None where they are unknown
    :param slots: T; each run of T states is one episode, the same users in consecutive slots
    :param noise_normalised: whether noise and transmit powers are folded in; else amplitude gains of the propagation
    :param about: where the states come from
    :param digest: of the file they were read from
    """

    channels: ChannelState
    gains: LinkGains
    weights: Tensor
    positions: Positions | None = None
    slots: int = 1
    noise_normalised: bool = True
    about: str = ""
    digest: str = field(default="", compare=False)

    def __len__(self) -> int:
        return self.channels.batch

    def __getitem__(self, index: Tensor | slice) -> ChannelBank:
        """States selected; each is then an episode of its own, unless whole episodes were taken by :meth:`split`."""
        return replace(super().__getitem__(index), slots=1)

    def split(self) -> tuple[ChannelBank, ChannelBank]:
        """States to train on, and those kept for evaluation: the last fifth of the episodes, one at least.

        Neither knows a slot of the other's episodes, whose fading would give it away.
        """
        episodes = len(self) // self.slots
        border = (episodes - max(1, episodes // 5)) * self.slots
        return replace(self[:border], slots=self.slots), replace(self[border:], slots=self.slots)

    def with_idle_antennas(self, transmit: int, receive: int) -> ChannelBank:
        """The same states; in half duplex the direction that nobody uses gets that many antennas."""
        c, new = self.channels, self.channels.self_interference.new_zeros
        if not c.half_duplex:
            return self
        transmit, receive = (c.transmit_antennas, receive) if c.downlink_users else (transmit, c.receive_antennas)
        idle = {"uplink": new(len(self), 0, receive)} if c.downlink_users else {"downlink": new(len(self), 0, transmit)}
        return replace(self, channels=replace(c, **idle, self_interference=new(len(self), receive, transmit)))

    def normalised(self, budget: LinkBudget) -> ChannelBank:
        """The same states with noise and transmit powers folded in; nothing changes where they are already."""
        if self.noise_normalised:
            return self
        power = {name: float(from_db(torch.tensor(db))) for name, db in budget.over_noise_db().items()}
        channels = {name: tensor * power[name] ** 0.5 for name, tensor in self.channels.tensors().items()}
        gains = {name: tensor * power[name] for name, tensor in self.gains.tensors().items()}
        return replace(self, channels=ChannelState(**channels), gains=LinkGains(**gains), noise_normalised=True)


def estimated_gains(channels: ChannelState, slots: int = 1) -> LinkGains:
    """Mean gains of channels whose geometry is not known.

    The mean of |h|^2 over the antennas (of H_S: the antenna pairs) and the slots of an episode. A cross channel has one
    antenna at each end: without a time axis its gain is its own |f|^2, so that its fading cannot be told apart.

    :param channels: N states, each run of ``slots`` the same users
    """

    def mean(tensor: Tensor, antennas: tuple[int, ...]) -> Tensor:
        power = squared_magnitude(tensor)
        power = power.mean(antennas) if antennas else power
        if slots == 1:
            return power
        episodes = power.unflatten(0, (-1, slots)).mean(1)
        return episodes.repeat_interleave(slots, dim=0)

    return LinkGains(
        downlink=mean(channels.downlink, (-1,)),
        uplink=mean(channels.uplink, (-1,)),
        cross=mean(channels.cross, ()),
        self_interference=mean(channels.self_interference, (-2, -1)),
    )

"""An upper bound that no decision can pass."""

from __future__ import annotations

import torch
from torch import Tensor

from d2rl.wireless.channels import ChannelState
from d2rl.wireless.rates import squared_magnitude


def interference_free_rates(channels: ChannelState) -> Tensor:
    """Link rates without self-, cross- and multi-user interference: [B, K_D + K_U], bit/s/Hz.

    Every link has the cell to itself; downlink users only share the transmit power, by water-filling.
    """
    downlink = squared_magnitude(channels.downlink).sum(-1)
    uplink = squared_magnitude(channels.uplink).sum(-1)
    return torch.log2(1 + torch.cat([downlink * water_filling(downlink), uplink], dim=-1))


def water_filling(gain: Tensor) -> Tensor:
    """Power shares [B, K] that maximise sum log(1 + p g) over parallel channels with gains [B, K], sum 1.

    Closed form over the sorted channels (Cover and Thomas, *Elements of Information Theory*, ch. 9).
    """
    floor = 1 / gain.clamp_min(1e-30)
    ordered = floor.sort(dim=-1).values
    count = torch.arange(1, gain.shape[-1] + 1, device=gain.device)
    levels = (1 + ordered.cumsum(-1)) / count
    used = (levels > ordered).sum(-1, keepdim=True).clamp_min(1)
    return (levels.gather(-1, used - 1) - floor).clamp_min(0)

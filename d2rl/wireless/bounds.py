"""An upper bound that no decision can pass."""

from __future__ import annotations

import torch
from torch import Tensor

from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.link_rates import squared_magnitude


def interference_free_rates(channels: ChannelState, weights: Tensor | None = None) -> Tensor:
    """Link rates without self-, cross- and multi-user interference: [B, K_D + K_U], bit/s/Hz.

    Every link has the cell to itself; downlink users only share the transmit power, by water-filling. So
    no decision has a higher sum of rates, weighted by ``weights`` [B, K_D + K_U] (default 1).
    """
    priority = None if weights is None else weights[:, : channels.downlink_users]
    downlink = squared_magnitude(channels.downlink).sum(-1)
    uplink = squared_magnitude(channels.uplink).sum(-1)
    return torch.log2(1 + torch.cat([downlink * water_filling(downlink, priority), uplink], dim=-1))


def water_filling(gain: Tensor, weights: Tensor | None = None) -> Tensor:
    """Power shares [B, K] that maximise sum a log(1 + p g) over parallel channels with gains [B, K], sum 1.

    Closed form p = (a mu - 1 / g)+ over the sorted channels (Cover and Thomas, *Elements of Information
    Theory*, ch. 9).

    :param weights: a, [B, K], none negative; default 1
    """
    if not gain.shape[-1]:
        return gain  # nobody to share among
    floor = 1 / gain.clamp_min(1e-30)
    weights = torch.ones_like(gain) if weights is None else weights.clamp_min(1e-12)
    depth = floor / weights
    depth = depth - depth.amin(-1, keepdim=True)  # below 0 dB a level is mostly floor, and 1 would be lost beside it
    ordered, order = depth.sort(dim=-1)
    share = weights.gather(-1, order)
    levels = (1 + (share * ordered).cumsum(-1)) / share.cumsum(-1)
    used = (levels > ordered).sum(-1, keepdim=True).clamp_min(1)
    return weights * (levels.gather(-1, used - 1) - depth).clamp_min(0)

"""Where a search for the best decision begins."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.link_rates import squared_magnitude
from d2rl.wireless.precoders import mrt, random_decision, rzf, zf

MAXIMUM_STARTS = 12
SEED = 2011
FAINT = 1e-3  # of the amplitude or power: enough to grow from


def starting_points(channels: ChannelState, starts: int, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Starting points of every state side by side: [B * starts, N_t, K_D] and [B * starts, K_U].

    In order: RZF at full power; RZF with faint uplink (favours the downlink); faint RZF at full uplink power (favours
    the uplink); MRT; ZF; MRT with faint uplink; the best single downlink link, then the best single uplink link, the
    others faint; and random beams with random uplink powers. Power goes to links by their weights, equal ones share it
    equally, and RZF spares a user by its weight. The random starts are the same for every state, so that a state's
    result does not depend on the batch it comes in.

    :param starts: 1 to 12
    :param weights: [B, K_D + K_U], priority of every link
    """
    generator = torch.Generator(channels.downlink.device).manual_seed(SEED)
    weights = weights.to(channels.downlink.real.dtype)
    weights = weights / weights.amax(-1, keepdim=True).clamp_min(1e-30)
    down, up = weights.split([channels.downlink_users, channels.uplink_users], dim=-1)
    share = (down / down.sum(-1, keepdim=True).clamp_min(1e-30) * channels.downlink_users).sqrt().unsqueeze(-2)
    spared = down / down.mean(-1, keepdim=True).clamp_min(1e-30)
    weighted = replace(channels, downlink=channels.downlink * spared.sqrt().unsqueeze(-1))
    sparing, matched, forcing = share * rzf(weighted), share * mrt(channels), share * zf(channels)
    single_down = torch.where(_best(channels.downlink, down).unsqueeze(-2), 1.0, FAINT) * matched
    single_down = single_down / squared_magnitude(single_down).sum((-2, -1), keepdim=True).sqrt().clamp_min(1e-30)
    single_up = torch.where(_best(channels.uplink, up), 1.0, FAINT) * up
    if channels.uplink_users:
        single_up = single_up / single_up.amax(-1, keepdim=True).clamp_min(1e-30)
    points = [
        (sparing, up),
        (sparing, FAINT * up),
        (FAINT * sparing, up),
        (matched, up),
        (forcing, up),
        (matched, FAINT * up),
        (single_down, FAINT * up),
        (FAINT * matched, single_up),
    ]
    for _ in range(max(0, starts - len(points))):
        beams, power = random_decision(channels[:1], generator)
        points.append((beams.expand(len(up), -1, -1), power.expand(len(up), -1)))
    precoder = torch.stack([point[0] for point in points[:starts]], dim=1).flatten(0, 1)
    power = torch.stack([point[1] for point in points[:starts]], dim=1).flatten(0, 1)
    return precoder, power


def _best(channel: Tensor, weights: Tensor) -> Tensor:
    """[B, K] bool: the link of the highest weighted rate when it is served alone."""
    if not weights.shape[-1]:
        return weights > 0
    alone = weights * torch.log2(1 + squared_magnitude(channel).sum(-1))
    return torch.nn.functional.one_hot(alone.argmax(-1), weights.shape[-1]).bool()

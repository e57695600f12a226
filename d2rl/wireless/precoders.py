"""Closed-form precoders at full power: MRT, ZF, RZF; and a random decision."""

from __future__ import annotations

import torch
from torch import Tensor

from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.fading import complex_normal
from d2rl.wireless.link_rates import solve, squared_magnitude


def mrt(channels: ChannelState) -> Tensor:
    """Maximum ratio transmission, equal power per user: [B, N_t, K_D], total power 1."""
    return equal_power(channels.downlink.mT)


def zf(channels: ChannelState) -> Tensor:
    """Zero forcing, equal power per user: [B, N_t, K_D], total power 1.

    With more users than antennas the pseudo-inverse gives the least-squares precoder.
    """
    beams = torch.linalg.pinv(channels.downlink.to(torch.complex128).conj())
    heard = (channels.downlink != 0).any(-1).unsqueeze(-2)  # else rounding would be scaled up to a beam
    return equal_power((beams * heard).to(channels.downlink.dtype))


def rzf(channels: ChannelState) -> Tensor:
    """Regularised zero forcing, (K_D I + sum_l g_l g_l^H)^-1 g_j, equal power: [B, N_t, K_D], total power 1.

    The regularisation is the transmit MMSE one (Peel et al., IEEE Trans. Commun. 2005).
    """
    beams = channels.downlink.to(torch.complex128).mT
    gram = beams.mH @ beams
    system = gram + channels.downlink_users * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return equal_power(solve(system, beams.mH).mH.to(channels.downlink.dtype))


def random_decision(channels: ChannelState, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Isotropic beams with total power 1 and uplink powers uniform in [0, 1]."""
    shape = (channels.batch, channels.transmit_antennas, channels.downlink_users)
    beams = complex_normal(shape, generator, channels.downlink.device).to(channels.downlink.dtype)
    power = torch.rand(channels.batch, channels.uplink_users, generator=generator, device=beams.device)
    norm = squared_magnitude(beams).sum((-2, -1), keepdim=True).sqrt()
    return beams / norm, power.to(norm.dtype)


def full_uplink_power(channels: ChannelState) -> Tensor:
    """Every uplink user at its maximum: ones [B, K_U]."""
    real = channels.uplink.real
    return torch.ones(channels.batch, channels.uplink_users, dtype=real.dtype, device=real.device)


def equal_power(beams: Tensor) -> Tensor:
    """Columns scaled to power 1 / K_D each; a zero column stays zero."""
    norm = squared_magnitude(beams).sum(-2, keepdim=True).clamp_min(1e-30).sqrt()
    return beams / norm / beams.shape[-1] ** 0.5

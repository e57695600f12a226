"""Closed-form precoders at full power: MRT, ZF, RZF; and a random decision."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.fading import complex_normal
from d2rl.wireless.link_rates import add_noise, squared_magnitude, unit_columns


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


def rzf(channels: ChannelState, inverse: Tensor | None = None) -> Tensor:
    """Regularised zero forcing, (K_D I + sum_l g_l g_l^H)^-1 g_j, equal power: [B, N_t, K_D], total power 1.

    The regularisation is the transmit MMSE one (Peel et al., IEEE Trans. Commun. 2005).

    :param inverse: (K_D I + G^H G)^-1 of :func:`regularised_inverses`, where it is at hand
    """
    if inverse is None:
        (inverse,) = regularised_inverses((user_gram(channels.downlink), channels.downlink_users))
    return equal_power((channels.downlink.to(torch.complex128).mT @ inverse).to(channels.downlink.dtype))


def user_gram(vectors: Tensor) -> Tensor:
    """H^H H of K users whose channels [B, K, N] are the columns of H: [B, K, K], in double."""
    streams = vectors.to(torch.complex128)
    return streams.conj() @ streams.mT


def regularised_inverses(*systems: tuple[Tensor, float]) -> list[Tensor]:
    """(a I + H^H H)^-1 of every system, [B, K, K] each, all in one go.

    With a = 1, the noise, its diagonal holds the MMSE errors of linear receivers, and H times it their combiners.

    :param systems: :func:`user_gram` H^H H [B, K, K], and a
    """
    size, loaded = max(gram.shape[-1] for gram, _ in systems), []
    for gram, loading in systems:
        missing = size - gram.shape[-1]
        padded = F.pad(gram, (0, missing, 0, missing)) if missing else gram
        loaded.append(add_noise(padded, loading))
    inverses = torch.linalg.inv_ex(torch.stack(loaded, dim=1))[0]
    counts = [gram.shape[-1] for gram, _ in systems]
    return [inverses[:, index, :count, :count] for index, count in enumerate(counts)]


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
    """Columns scaled to power 1 / K_D each; a zero column stays zero.

    :param beams: [B, N_t, K_D], complex
    """
    return unit_columns(beams) / beams.shape[-1] ** 0.5

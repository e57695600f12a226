"""Small-scale fading: whitened channel coefficients of unit mean power, and their change in time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.propagation import LinkGains

SPEED_OF_LIGHT = 299_792_458.0  # m/s


def rayleigh(like: ChannelState, generator: torch.Generator) -> ChannelState:
    """Independent CN(0, 1) coefficients in the shapes of ``like``."""
    return like.map(lambda tensor: complex_normal(tensor.shape, generator, tensor.device))


def complex_normal(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """CN(0, 1) samples, complex64."""
    return torch.randn(shape, generator=generator, device=device, dtype=torch.complex64)


def rician(scattered: Tensor, factor: float | None, line_of_sight: Tensor | float = 1.0) -> Tensor:
    """Add a line of sight to CN(0, 1) scattering, keeping unit mean power.

    :param scattered: CN(0, 1) coefficients
    :param factor: Rician K in dB; None is Rayleigh fading
    :param line_of_sight: coefficients of unit magnitude in the shape of ``scattered``; default all ones
    """
    if factor is None:
        return scattered
    k = 10 ** (factor / 10)
    return math.sqrt(k / (k + 1)) * line_of_sight + math.sqrt(1 / (k + 1)) * scattered


def steering(positions: Tensor, antennas: int) -> Tensor:
    """Response of a half-wavelength linear array along x to users at ``positions``: [B, K, antennas]."""
    cosine = positions[..., 0] / positions.norm(dim=-1)
    phase = math.pi * cosine.unsqueeze(-1) * torch.arange(antennas, device=positions.device)
    return torch.polar(torch.ones_like(phase), phase)


def jakes_correlation(speed: float, carrier: float, slot: float) -> float:
    """Correlation of fading between two slots, J_0(2 pi f_d T) (Jakes 1974).

    :param speed: m/s
    :param carrier: Hz
    :param slot: s
    """
    doppler = speed * carrier / SPEED_OF_LIGHT
    return float(torch.special.bessel_j0(torch.tensor(2 * math.pi * doppler * slot, dtype=torch.float64)))


def evolve(scattered: ChannelState, correlation: float, generator: torch.Generator) -> ChannelState:
    """One first-order Gauss-Markov step, which keeps CN(0, 1) stationary."""
    innovation = rayleigh(scattered, generator)
    fresh = math.sqrt(max(0.0, 1 - correlation**2))
    pairs = zip(scattered.tensors().items(), innovation.tensors().values(), strict=True)
    return ChannelState(**{name: correlation * old + fresh * new for (name, old), new in pairs})


def scale(small: ChannelState, gains: LinkGains) -> ChannelState:
    """Channels from whitened coefficients: multiply each by the root of its mean gain."""
    roots = _roots(gains)
    return ChannelState(**{name: tensor * roots[name] for name, tensor in small.tensors().items()})


def whiten(channels: ChannelState, gains: LinkGains) -> ChannelState:
    """Whitened coefficients from channels; the inverse of :func:`scale`, and 0 where the gain is 0.

    :raises ValueError: gains of other shapes than the channels ask for
    """
    for name, gain in gains.tensors().items():
        expected = getattr(channels, name).shape[: gain.dim()]
        if gain.shape != expected:
            raise ValueError(f"gains.{name} has shape {tuple(gain.shape)}, the channels ask for {tuple(expected)}")
    roots = {name: root.clamp_min(torch.finfo(root.dtype).tiny) for name, root in _roots(gains).items()}
    return ChannelState(**{name: tensor / roots[name] for name, tensor in channels.tensors().items()})


def estimate(channels: ChannelState, gains: LinkGains, error: float, generator: torch.Generator) -> ChannelState:
    """Imperfect CSI, h_hat = sqrt(1 - e) h + sqrt(e) n with n of the variance of h.

    :param error: e in [0, 1]; 0 returns ``channels`` themselves
    """
    if error == 0:
        return channels
    noise = scale(rayleigh(channels, generator), gains)
    pairs = zip(channels.tensors().items(), noise.tensors().values(), strict=True)
    return ChannelState(
        **{name: math.sqrt(1 - error) * true + math.sqrt(error) * wrong for (name, true), wrong in pairs}
    )


def _roots(gains: LinkGains) -> dict[str, Tensor]:
    return {
        "downlink": gains.downlink.sqrt().unsqueeze(-1),
        "uplink": gains.uplink.sqrt().unsqueeze(-1),
        "cross": gains.cross.sqrt(),
        "self_interference": gains.self_interference.sqrt()[:, None, None],
    }

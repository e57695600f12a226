"""Large-scale propagation: where users are and how strongly they are heard."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from d2rl.common.tensor_struct import TensorStruct

PATH_LOSS_DB = {
    # a + b log10(d / km); 3GPP TR 36.828, outdoor pico cell
    "los": (103.8, 20.9),
    "nlos": (145.4, 37.5),
}
USER_TO_USER = "nlos"
DECADES = 3.0  # a feature of 1 is 30 dB above noise
MINIMUM_USER_DISTANCE = 1.0  # m, keeps two users at one spot apart


@dataclass(frozen=True)
class LinkGains(TensorStruct):
    """Mean noise-normalised power gain of every channel coefficient (linear).

    :param downlink: [B, K_D], mean of |g_j|^2 per antenna
    :param uplink: [B, K_U], mean of |h_k|^2 per antenna
    :param cross: [B, K_U, K_D], mean of |f_kj|^2
    :param self_interference: [B], mean of |H_S|^2 per antenna pair
    """

    downlink: Tensor
    uplink: Tensor
    cross: Tensor
    self_interference: Tensor


@dataclass(frozen=True)
class Positions(TensorStruct):
    """Where users are, in m; the base station is at the origin.

    :param downlink: [B, K_D, 2]
    :param uplink: [B, K_U, 2]
    """

    downlink: Tensor
    uplink: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.downlink, self.uplink))


@dataclass(frozen=True)
class LinkBudget:
    """Transmit powers, noise and path loss of one scenario; see ``FullDuplexConfig`` for the defaults.

    :param bs_power: P_BS in dBm
    :param user_power: P_UE in dBm
    :param noise_downlink: dBm in the whole band at a user
    :param noise_uplink: dBm in the whole band at the base station
    :param self_interference: residual SI after cancellation, dB
    :param path_loss: ``los`` or ``nlos``, base station to user
    """

    bs_power: float
    user_power: float
    noise_downlink: float
    noise_uplink: float
    self_interference: float
    path_loss: str

    def over_noise_db(self) -> dict[str, float]:
        """Transmit power over noise of every kind of channel, dB; times path gain it is the noise-normalised gain."""
        return {
            "downlink": self.bs_power - self.noise_downlink,
            "uplink": self.user_power - self.noise_uplink,
            "cross": self.user_power - self.noise_downlink,
            "self_interference": self.bs_power - self.noise_uplink,
        }

    def gains(self, downlink: Tensor, uplink: Tensor) -> LinkGains:
        """Link gains for users at given places.

        :param downlink: [B, K_D, 2], positions of the downlink users in m, base station at the origin
        :param uplink: [B, K_U, 2], positions of the uplink users in m
        """
        between = torch.cdist(uplink, downlink).clamp_min(MINIMUM_USER_DISTANCE)
        to_user = path_gain_db(downlink.norm(dim=-1), self.path_loss)
        from_user = path_gain_db(uplink.norm(dim=-1), self.path_loss)
        si = downlink.new_full(downlink.shape[:1], self.bs_power + self.self_interference - self.noise_uplink)
        return LinkGains(
            downlink=from_db(self.bs_power + to_user - self.noise_downlink),
            uplink=from_db(self.user_power + from_user - self.noise_uplink),
            cross=from_db(self.user_power + path_gain_db(between, USER_TO_USER) - self.noise_downlink),
            self_interference=from_db(si),
        )


def path_gain_db(distance: Tensor, model: str) -> Tensor:
    """Power gain in dB (negative path loss) at ``distance`` in m; 3GPP TR 36.828."""
    intercept, slope = PATH_LOSS_DB[model]
    return -(intercept + slope * torch.log10(distance / 1000))


def thermal_noise(bandwidth: float, density: float, noise_figure: float) -> float:
    """Noise power in dBm over ``bandwidth`` in MHz, from a density in dBm/Hz and a figure in dB."""
    return density + 10 * math.log10(bandwidth * 1e6) + noise_figure


def user_positions(
    batch: int, users: int, radius: float, minimum: float, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Users uniform in the ring between ``minimum`` and ``radius`` (m): [batch, users, 2]."""
    draw = torch.rand(batch, users, 2, generator=generator, device=device)
    distance = (minimum**2 + (radius**2 - minimum**2) * draw[..., 0]).sqrt()
    angle = 2 * math.pi * draw[..., 1]
    return torch.stack([distance * angle.cos(), distance * angle.sin()], dim=-1)


def from_db(decibel: Tensor) -> Tensor:
    """Linear power.

    :param decibel: of any shape, dB
    """
    return 10 ** (decibel / 10)


def log_gain(gain: Tensor) -> Tensor:
    """log10(1 + gain) in units of 30 dB.

    :param gain: of any shape, linear power over noise
    """
    return torch.log10(1 + gain) / DECADES

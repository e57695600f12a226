"""Action heads: from numbers in [-1, 1] to precoders and uplink powers that respect the limits."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from d2rl.wireless.channels import ChannelState
from d2rl.wireless.rates import squared_magnitude


class ActionHead(Protocol):
    """Decodes an action; every user owns ``width`` of its numbers (padded where it needs fewer)."""

    width: int

    def size(self, channels: ChannelState) -> int:
        """Length of the flat action."""

    def decode(self, channels: ChannelState, action: Tensor) -> tuple[Tensor, Tensor]:
        """Precoder [B, N_t, K_D] of total power 1 at most and uplink power [B, K_U] in [0, 1]."""


class StructuredHead:
    r"""The shape that every stationary point of the sum rate has.

    .. math:: w_j \propto \Big(I + \sum_l \lambda_l g_l g_l^H + H_S^H \sum_k \nu_k v_k v_k^H H_S\Big)^{-1} g_j

    with unit norm times the root of a softmax power share, v_k the MMSE combiner without
    self-interference. Two numbers per user, whatever the number of antennas:
    (lambda, power share) of a downlink user, (p, nu) of an uplink user.
    """

    width = 2
    lambda_range = (-1.0, 5.0)  # log10 of lambda_l ||g_l||^2
    nu_range = (-2.0, 4.0)  # log10 of nu_k ||H_S^H v_k||^2
    share_range = 3.0  # a share is softmax(3 a)

    def size(self, channels: ChannelState) -> int:
        """2 (K_D + K_U)."""
        return 2 * channels.links

    def decode(self, channels: ChannelState, action: Tensor) -> tuple[Tensor, Tensor]:
        """Precoder and uplink power.

        :param channels: what the base station knows, B states
        :param action: [B, 2 (K_D + K_U)] in [-1, 1], the two numbers of each user side by side
        :returns: precoder [B, N_t, K_D], total power 1; uplink power [B, K_U] in [0, 1]
        """
        per_user = action.unflatten(-1, (channels.links, 2))
        down, up = per_user.split([channels.downlink_users, channels.uplink_users], dim=-2)
        directions = downlink_directions(channels)
        leakage = leakage_directions(channels)
        strength = torch.cat(
            [_log_scale(down[..., 0], self.lambda_range), _log_scale(up[..., 1], self.nu_range)], dim=-1
        )
        basis = torch.cat([directions, leakage], dim=-1) * strength.sqrt().unsqueeze(-2)
        system = basis @ basis.mH + torch.eye(basis.shape[-2], device=basis.device)
        beams = torch.linalg.solve(system, directions)
        norm = squared_magnitude(beams).sum(-2, keepdim=True).clamp_min(1e-30).sqrt()
        share = torch.softmax(self.share_range * down[..., 1], dim=-1)
        power = ((up[..., 0] + 1) / 2).square()
        return beams / norm * share.sqrt().unsqueeze(-2), power


class BeamformingHead:
    """The paper's head: real and imaginary parts of W, scaled to the power ball, and p.

    2 N_t K_D + K_U numbers: for each downlink user 2 N_t of its beam, then one power per uplink user.
    """

    def __init__(self, transmit_antennas: int):
        self.width = 2 * transmit_antennas

    def size(self, channels: ChannelState) -> int:
        """2 N_t K_D + K_U."""
        return self.width * channels.downlink_users + channels.uplink_users

    def decode(self, channels: ChannelState, action: Tensor) -> tuple[Tensor, Tensor]:
        """Precoder [B, N_t, K_D] with total power 1 at most; uplink power [B, K_U] in [0, 1].

        :param action: [B, 2 N_t K_D + K_U] in [-1, 1]
        """
        k_d, k_u = channels.downlink_users, channels.uplink_users
        beams, power = action.split([self.width * k_d, k_u], dim=-1)
        precoder = torch.view_as_complex(beams.unflatten(-1, (k_d, -1, 2)).contiguous()).mT
        norm = squared_magnitude(precoder).sum((-2, -1), keepdim=True).clamp_min(1).sqrt()
        return precoder / norm, (power + 1) / 2


def uplink_combiners(channels: ChannelState) -> Tensor:
    """MMSE combiners without self-interference at full uplink power, unit norm: [B, N_r, K_U]."""
    streams = channels.uplink.to(torch.complex128).mT
    gram = streams.mH @ streams
    gram = gram + torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    combiners = torch.linalg.solve(gram, streams.mH).mH
    norm = squared_magnitude(combiners).sum(-2, keepdim=True).clamp_min(1e-60).sqrt()
    return (combiners / norm).to(channels.uplink.dtype)


def downlink_directions(channels: ChannelState) -> Tensor:
    """Unit vectors g_j / ||g_j||: [B, N_t, K_D]; zero for a user that hears nothing."""
    norm = squared_magnitude(channels.downlink).sum(-1, keepdim=True).clamp_min(1e-30).sqrt()
    return (channels.downlink / norm).mT


def leakage_directions(channels: ChannelState) -> Tensor:
    """Unit vectors along H_S^H v_k, where self-interference reaches uplink user k: [B, N_t, K_U]."""
    leakage = channels.self_interference.mH @ uplink_combiners(channels)
    norm = squared_magnitude(leakage).sum(-2, keepdim=True).clamp_min(1e-30).sqrt()
    return leakage / norm


def make_head(name: str, transmit_antennas: int) -> ActionHead:
    """The head called ``structured`` or ``beamforming``."""
    return StructuredHead() if name == "structured" else BeamformingHead(transmit_antennas)


def _log_scale(action: Tensor, bounds: tuple[float, float]) -> Tensor:
    low, high = bounds
    return 10 ** (low + (high - low) * (action + 1) / 2)

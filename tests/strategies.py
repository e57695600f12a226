"""Hypothesis strategies: channels at and beyond the edge of what a cell can bring, and actions for them."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from d2rl.wireless import ChannelState
from d2rl.wireless.fading import complex_normal
from d2rl.wireless.heads import ActionHead

CPU = torch.device("cpu")
SILENT = -1000  # dB, a gain of exactly 0
GAINS = st.one_of(st.sampled_from([SILENT, -200, -60, 0, 60, 120]), st.integers(-120, 120))  # dB above noise
# -200 to 0 dB of residual self-interference at 26 dBm are -75 to 125 dB above the noise of 10 MHz
LEAKAGES = st.one_of(st.sampled_from([SILENT, -75, 35, 125]), st.integers(-75, 125))
SHAPES = st.sampled_from(["independent", "parallel", "one path", "one antenna hears", "equal"])


@st.composite
def extreme_channels(draw: st.DrawFn, batch: int = 2) -> ChannelState:
    """States of 1 to 4 users and antennas; each user at a gain of its own, from none to 120 dB above noise.

    The small-scale part is independent, parallel (all users at one bearing, rank one), one path of equal
    coefficients, on one antenna alone, or the same for two users.
    """
    k_d, k_u, n_t, n_r = (draw(st.integers(1, 4)) for _ in range(4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    shape = draw(SHAPES)
    leakage = _small((batch, n_r, n_t), generator, shape) * _amplitude(torch.tensor([[float(draw(LEAKAGES))]]))
    return ChannelState(
        _small((batch, k_d, n_t), generator, shape) * _gains(draw, k_d).unsqueeze(-1),
        _small((batch, k_u, n_r), generator, shape) * _gains(draw, k_u).unsqueeze(-1),
        complex_normal((batch, k_u, k_d), generator, CPU) * _gains(draw, k_u * k_d).reshape(k_u, k_d),
        leakage,
    )


@st.composite
def extreme_actions(draw: st.DrawFn, head: ActionHead, channels: ChannelState) -> Tensor:
    """Actions [B, size]: all at one end or in the middle, on corners, or anywhere in [-1, 1]."""
    shape = (channels.batch, head.layout.size(channels))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    kind = draw(st.sampled_from(["low", "middle", "high", "corners", "anywhere"]))
    anywhere = 2 * torch.rand(shape, generator=generator) - 1
    whole = {"low": -torch.ones(shape), "middle": torch.zeros(shape), "high": torch.ones(shape)}
    return {**whole, "corners": anywhere.sign(), "anywhere": anywhere}[kind]


def _small(size: tuple[int, ...], generator: torch.Generator, shape: str) -> Tensor:
    coefficients = complex_normal(size, generator, CPU)
    if shape == "parallel":
        return coefficients[:, :1] * complex_normal((size[0], size[1], 1), generator, CPU)
    if shape == "one path":
        return torch.ones_like(coefficients)
    if shape == "one antenna hears":
        return torch.cat([coefficients[..., :1], torch.zeros_like(coefficients[..., 1:])], dim=-1)
    if shape == "equal":
        return coefficients[:, :1].expand(size)
    return coefficients


def _gains(draw: st.DrawFn, count: int) -> Tensor:
    return _amplitude(torch.tensor(draw(st.lists(GAINS, min_size=count, max_size=count)), dtype=torch.float64))


def _amplitude(decibel: Tensor) -> Tensor:
    return torch.where(decibel > SILENT, 10 ** (decibel / 20), 0.0).to(torch.float32)

"""Seeded fixtures: channels of the default full-duplex scenario and of its variations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from d2rl.wireless import ChannelState
from d2rl.wireless.fading import complex_normal, rician, scale
from d2rl.wireless.propagation import LinkBudget, LinkGains, thermal_noise, user_positions

torch.set_num_threads(1)

CPU = torch.device("cpu")


def draw_channels(
    batch: int = 16,
    seed: int = 0,
    *,
    downlink_users: int = 6,
    uplink_users: int = 4,
    transmit_antennas: int = 8,
    receive_antennas: int = 8,
    self_interference: float = -90.0,
    path_loss: str = "los",
) -> tuple[ChannelState, LinkGains]:
    """Independent drops of the default scenario (Rayleigh links, Rician self-interference) and their gains."""
    generator = torch.Generator().manual_seed(seed)
    budget = LinkBudget(
        bs_power=26.0,
        user_power=23.0,
        noise_downlink=thermal_noise(10.0, -174.0, 9.0),
        noise_uplink=thermal_noise(10.0, -174.0, 5.0),
        self_interference=self_interference,
        path_loss=path_loss,
    )
    gains = budget.gains(
        user_positions(batch, downlink_users, 100.0, 10.0, generator, CPU),
        user_positions(batch, uplink_users, 100.0, 10.0, generator, CPU),
    )
    small = ChannelState(
        downlink=complex_normal((batch, downlink_users, transmit_antennas), generator, CPU),
        uplink=complex_normal((batch, uplink_users, receive_antennas), generator, CPU),
        cross=complex_normal((batch, uplink_users, downlink_users), generator, CPU),
        self_interference=rician(
            complex_normal((batch, receive_antennas, transmit_antennas), generator, CPU), factor=1.0
        ),
    )
    return scale(small, gains), gains


@pytest.fixture
def make_channels() -> Callable[..., ChannelState]:
    """Factory of channels: ``make_channels(batch, seed, self_interference=-110.0, ...)``."""
    return lambda *args, **kwargs: draw_channels(*args, **kwargs)[0]


@pytest.fixture
def channels() -> ChannelState:
    """16 drops of the default scenario."""
    return draw_channels()[0]


@pytest.fixture
def gains() -> LinkGains:
    """The mean gains behind ``channels``."""
    return draw_channels()[1]


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of the test's own."""
    return torch.Generator().manual_seed(7)

"""The keys of the section ``ris``: meaning, unit, range and default of each."""

from __future__ import annotations

from dataclasses import dataclass

from d2rl.config.defaults import option


@dataclass
class RisConfig:
    """A hotspot around a surface, mostly out of sight of the base station; path loss of 3GPP TR 36.828."""

    antennas: int = option(8, "N_t, antennas of the base station", low=1, high=256)
    elements: int = option(32, "N, elements of the surface", low=1, high=256)
    users: int = option(4, "K, single-antenna users", low=1, high=64)
    surface_distance: float = option(50.0, "m, from the base station to the surface", low=1, high=1e4)
    user_radius: float = option(15.0, "m, largest distance of a user from the surface", above=0, high=1e4)
    minimum_distance: float = option(5.0, "m, smallest distance of a user from the surface", low=0.1)
    bandwidth: float = option(10.0, "MHz", low=1e-6, high=1e6)
    noise_density: float = option(-174.0, "dBm/Hz", low=-250, high=0)
    noise_figure: float = option(9.0, "dB", low=0, high=60)
    bs_power: float = option(30.0, "P, dBm", low=-60, high=60)
    surface_rician: float | None = option(
        3.0, "Rician K from the base station to the surface, dB; null is Rayleigh fading", low=-100, high=100
    )
    user_rician: float | None = option(
        3.0, "Rician K from the surface to a user, dB; null is Rayleigh fading", low=-100, high=100
    )
    blocking: float = option(0.9, "probability that a user's direct path is blocked", low=0, high=1)
    blocking_loss: float = option(30.0, "loss of a blocked direct path, dB", low=0, high=300)
    gradient_steps: int = option(
        5,
        "steps along the gradient of the sum rate from whose end a policy decides; 0: it begins far off",
        low=0,
        high=1000,
    )
    priority_user: float = option(0.0, "spread of the log weight of every user", low=0, high=3)

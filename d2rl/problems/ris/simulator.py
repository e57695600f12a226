"""The world: where users are dropped, and what the channels are there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from d2rl.common.tensor_struct import TensorStruct
from d2rl.problems.ris.channels import SurfaceChannels
from d2rl.problems.ris.settings import RisConfig
from d2rl.wireless.fading import complex_normal, rician, steering
from d2rl.wireless.propagation import from_db, path_gain_db, thermal_noise, user_positions


@dataclass(frozen=True)
class SurfaceState(TensorStruct):
    """What is true of B drops.

    :param channels: known to the base station
    :param weights: [B, K + N], priority of every entity; 0 of elements, which want nothing for themselves
    """

    channels: SurfaceChannels
    weights: Tensor


def drop(config: RisConfig, count: int, generator: torch.Generator) -> SurfaceState:
    """New users around the surface, each with a direct path that may be blocked.

    The base station is at the origin, the surface at (``surface_distance``, 0); both have half-wavelength linear
    arrays along x. All random numbers come from the generator, on its device.
    """
    c, device = config, generator.device
    n_t, n, k = c.antennas, c.elements, c.users
    over_noise = c.bs_power - thermal_noise(c.bandwidth, c.noise_density, c.noise_figure)
    around = user_positions(count, k, c.user_radius, c.minimum_distance, generator, device)
    surface = torch.stack([torch.full((), c.surface_distance, device=device), torch.zeros((), device=device)])
    blocked = torch.rand(count, k, generator=generator, device=device) < c.blocking

    to_users = path_gain_db((surface + around).norm(dim=-1), "nlos") - c.blocking_loss * blocked
    to_surface = path_gain_db(surface.norm(), "los")
    onward = path_gain_db(around.norm(dim=-1), "los")

    direct = complex_normal((count, k, n_t), generator, device)
    sight = steering(-surface, n).unsqueeze(-1) * steering(surface, n_t).conj()
    feed = rician(complex_normal((count, n, n_t), generator, device), c.surface_rician, sight)
    reflected = rician(complex_normal((count, k, n), generator, device), c.user_rician, steering(around, n))
    channels = SurfaceChannels(
        direct=direct * from_db(over_noise + to_users).sqrt().unsqueeze(-1),
        feed=feed * from_db(over_noise + to_surface).sqrt(),
        reflected=reflected * from_db(onward).sqrt().unsqueeze(-1),
    )
    priorities = torch.exp(c.priority_user * torch.randn(count, k, generator=generator, device=device))
    return SurfaceState(channels, torch.nn.functional.pad(priorities, (0, n)))

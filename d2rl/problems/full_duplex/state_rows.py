"""Channels of the cell as rows that SENPNN makes anew: whitened coefficients, mean gains and places of the users."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.base import Rows
from d2rl.problems.full_duplex.simulator import CellState
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.fading import scale, whiten
from d2rl.wireless.propagation import DECADES

HARMONICS = 8  # of the phase between neighbouring antennas of an array along x, and along y
PLACE_SIZE = 4 * HARMONICS + 1


def row_sizes(config: FullDuplexConfig) -> dict[str, int]:
    """Real numbers of a user's channel, a cross channel, the self-interference matrix, where they play a part."""
    n_t, n_r = config.transmit_antennas, config.receive_antennas
    if not config.uplink_users:
        return {"downlink": 2 * n_t}
    if not config.downlink_users:
        return {"uplink": 2 * n_r}
    return {"downlink": 2 * n_t, "uplink": 2 * n_r, "cross": 2, "self_interference": 2 * n_r * n_t}


def rows_of(state: CellState, sizes: Mapping[str, int], circular: bool) -> dict[str, Rows]:
    """Whitened small-scale coefficients as real rows of unit variance; mean gains and places stay in the state.

    :param sizes: of :func:`row_sizes`
    :param circular: whether the phase common to a user's channel is arbitrary; that of self-interference never is
    """
    small, found = whiten(state.channels, state.gains), {}
    for name, size in sizes.items():
        coefficients = getattr(small, name).to(torch.complex64).resolve_conj()
        numbers = math.sqrt(2) * torch.view_as_real(coefficients).reshape(state.batch, -1, size)
        gain = getattr(state.gains, name).reshape(state.batch, -1, 1)
        level = gain.clamp_min(torch.finfo(gain.dtype).tiny).log10() / DECADES
        where = getattr(state.positions, name, None)
        place = None if where is None else place_features(where)
        found[name] = Rows(numbers, level, place, circular and name != "self_interference")
    return found


def with_numbers(state: CellState, sizes: Mapping[str, int], numbers: Mapping[str, Tensor]) -> ChannelState:
    """Channels of the same geometry with other small-scale coefficients, [B, n, d] of each kind."""
    made = {}
    for name in sizes:
        pairs, like = numbers[name].unflatten(-1, (-1, 2)) / math.sqrt(2), getattr(state.channels, name)
        made[name] = torch.view_as_complex(pairs).reshape(like.shape).to(like)
    scaled = scale(replace(state.channels, **made), state.gains)
    return replace(state.channels, **{name: getattr(scaled, name) for name in made})


def place_features(positions: Tensor) -> Tensor:
    """Where users are, as a linear array sees it: [B, K, PLACE_SIZE] from [B, K, 2] in m.

    Harmonics of the phase by which a plane wave from there differs between neighbouring antennas, and the distance.
    """
    distance = positions.norm(dim=-1, keepdim=True).clamp_min(1e-3)
    phase = (math.pi * positions / distance).unsqueeze(-1) * torch.arange(1, HARMONICS + 1, device=positions.device)
    return torch.cat([phase.cos().flatten(-2), phase.sin().flatten(-2), distance.log10() - 2], dim=-1)

"""States drawn from lists of places: users stand at any of them, or each user moves within a list of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d2rl.common.errors import InputError, counted
from d2rl.common.notices import notice_once


def states_of_any(
    places: Tensor, count: int, drops: int, generator: np.random.Generator, path: Path, users: str | None
) -> Tensor:
    """States [drops, T, K, N] of ``count`` different users of one list; those of the last fifth are in no other state.

    :param places: [U, T, N], 0 where there is no channel
    :param users: what was asked for, for messages
    :raises InputError: nothing was asked for, or the list is too short
    """
    if not count:
        raise InputError(f"{path} is a list of {len(places)} users; say how many a state has, such as users=8+0.")
    usable = _usable(places, path, "user")
    kept = max(1, drops // 5)
    groups = []
    for part, states in zip(_parted(usable), (drops - kept, kept), strict=True):
        if len(part) < count:
            raise InputError(
                f"{path} has {counted(len(usable), 'user')} with a path; users={users} needs {5 * count} at least, "
                "since a fifth of them is kept for evaluation."
            )
        whole = len(part) // count * count
        orders = np.stack([generator.permutation(len(part))[:whole] for _ in range(-(-states * count // whole))])
        groups.append(part[torch.from_numpy(orders.reshape(-1, count)[:states])])
    return places[torch.cat(groups)].transpose(1, 2)


def states_of_each(places: Tensor, drops: int, generator: np.random.Generator, path: Path) -> Tensor:
    """States [drops, T, K, N] with every user at one of its own places; those of the last fifth are in no other state.

    :param places: [U, T, K, N], 0 where a user has no channel, as of a list that is shorter than others
    :raises InputError: a user has fewer than 5 places
    """
    kept = max(1, drops // 5)
    columns = []
    for user in range(places.shape[2]):
        own = places[:, :, user]
        usable = _usable(own, path, f"place of user {user}", f"places of user {user}")
        if len(usable) < 5:
            raise InputError(
                f"{path} has {counted(len(usable), 'place')} of user {user}; 5 are needed at least, since a fifth of "
                "them is kept for evaluation."
            )
        chosen = [
            part[torch.from_numpy(_shuffled(len(part), states, generator))]
            for part, states in zip(_parted(usable), (drops - kept, kept), strict=True)
        ]
        columns.append(own[torch.cat(chosen)])
    return torch.stack(columns, dim=2)


def _shuffled(places: int, states: int, generator: np.random.Generator) -> np.ndarray:
    """Numbers of places for that many states, each place as often as any other."""
    return np.concatenate([generator.permutation(places) for _ in range(-(-states // places))])[:states]


def _usable(places: Tensor, path: Path, one: str, many: str = "") -> Tensor:
    """Numbers of the places [U, T, N] that have a channel; how many have none is said."""
    heard = places.abs().amax((1, 2)) > 0
    silent = int((~heard).sum())
    if silent:
        notice_once(
            f"{path}: {counted(silent, one, many)} of {len(heard)} without a path to the base station, or not "
            "measured, are left out."
        )
    return torch.nonzero(heard).squeeze(-1)


def _parted(usable: Tensor) -> tuple[Tensor, Tensor]:
    """Places to train on, and the last fifth."""
    border = len(usable) - len(usable) // 5
    return usable[:border], usable[border:]

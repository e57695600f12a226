"""Decisions that took long to find, kept in files: those that come with the package, and the user's cache directory."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import platformdirs
import torch
from torch import Tensor

from d2rl.common.errors import InputError
from d2rl.common.files import replacing
from d2rl.common.notices import notice_once
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.link_rates import Decision
from d2rl.wireless.wmmse import check_decision

SHIPPED = Path(__file__).parent / "reference_decisions"
DIRECTORY = "D2RL_CACHE"  # environment variable with another folder for the cache
ALIKE = 1e-4  # share of a channel's norm by which its sums differ at most where another processor drew the same drop


def kept(method: str, limit: int, channels: ChannelState, weights: Tensor, find: Callable[[], Decision]) -> Decision:
    """Decisions of a method in some states, from a file if there is one, else found and written to the cache.

    A cache that is damaged, belongs to other states or cannot be written is told once; the decisions are found anew.

    :param method: its name, a space, and all that its decisions depend on beside the states
    :param limit: iterations that it may take; what more were allowed for is as good
    :param channels: B states, as the method knows them
    :param weights: [B, K_D + K_U]
    :param find: the method itself
    :returns: precoder and uplink power on the device of the channels
    """
    sums = _sums(channels, weights)
    cached = cache_directory() / _file_name(method, channels, sums)
    for path in _candidates(cached):
        found = _read(path, method, limit, channels, sums)
        if found is not None:
            return found
    decision = find()
    try:
        write(cached, method, limit, sums, decision)
    except OSError as error:
        notice_once(
            f"the cache of references {cached.parent} cannot be written: {error.strerror or error}; they are computed "
            f"anew every time. Set {DIRECTORY} to a folder that can be written."
        )
    return decision


def cache_directory() -> Path:
    """Where references are kept: ``D2RL_CACHE``, or the platform's folder for caches."""
    return Path(os.environ.get(DIRECTORY) or platformdirs.user_cache_path("d2rl") / "references")


def ship(method: str, limit: int, channels: ChannelState, weights: Tensor, decision: Decision) -> Path:
    """Write decisions to where those of the package lie."""
    sums = _sums(channels, weights)
    path = SHIPPED / _file_name(method, channels, sums)
    write(path, method, limit, sums, decision)
    return path


def write(path: Path, method: str, limit: int, sums: np.ndarray, decision: Decision) -> None:
    """Write a file whole or not at all.

    :raises OSError: it cannot be written
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    precoder, power = (part.detach().cpu().numpy() for part in decision)
    with replacing(path) as file:
        np.savez_compressed(file, method=method, limit=limit, sums=sums, precoder=precoder, power=power)


def _sums(channels: ChannelState, weights: Tensor) -> np.ndarray:
    """What tells states apart, [B, 12 + K]: real sum, imaginary sum and norm of each channel, and the weights."""
    parts = []
    for tensor in channels.tensors().values():
        values = torch.view_as_real(tensor.detach().cpu().to(torch.complex128).resolve_conj()).flatten(1, -2)
        parts += [values.sum(1), values.square().sum((1, 2)).sqrt().unsqueeze(-1)]
    return torch.cat([*parts, weights.cpu().double()], dim=-1).float().numpy()


def _same_states(sums: np.ndarray, others: np.ndarray) -> bool:
    """Whether sums belong to the same states; real and imaginary sums may cancel, so norms are the scale of all."""
    if sums.shape != others.shape:
        return False
    scale = np.abs(others).astype(np.float64)
    scale[:, 0:12] = np.repeat(scale[:, 2:12:3], 3, axis=1)
    return bool((np.abs(sums - others) <= ALIKE * scale).all())


def _file_name(method: str, channels: ChannelState, sums: np.ndarray) -> str:
    antennas = f"{channels.transmit_antennas}+{channels.receive_antennas}"
    links = f"{channels.downlink_users}+{channels.uplink_users}"
    digest = hashlib.sha256(method.encode() + sums.tobytes()).hexdigest()[:16]
    return f"{method.split()[0]}-{channels.batch}-{links}@{antennas}-{digest}.npz"


def _candidates(cached: Path) -> Iterator[Path]:
    """The file of this name, and those of the package for as many drops of such a cell.

    On another processor the last digits of the drops differ, and with them the digest.
    """
    if cached.is_file():
        yield cached
    yield from sorted(SHIPPED.glob(f"{cached.name.rpartition('-')[0]}-*.npz"))


def _read(path: Path, method: str, limit: int, channels: ChannelState, sums: np.ndarray) -> Decision | None:
    try:
        with np.load(path, allow_pickle=False) as content:
            if str(content["method"]) != method or not _same_states(content["sums"], sums):
                if path.parent != SHIPPED:
                    notice_once(f"the reference in {path} belongs to other drops; it is computed anew")
                return None
            if int(content["limit"]) < limit:
                return None
            precoder, power = (torch.from_numpy(content[name]) for name in ("precoder", "power"))
        precoder, power = precoder.to(channels.downlink), power.to(channels.downlink.real)
        return check_decision(channels, precoder, power)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, InputError, TypeError) as error:
        reason = getattr(error, "strerror", None)  # what else NumPy says is of no use here
        told = f"cannot be read: {reason}" if reason else "is damaged"
        notice_once(f"the reference in {path} {told}; it is computed anew")
        return None

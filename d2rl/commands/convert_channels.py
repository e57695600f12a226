"""A channel bank from a file of any kind: ``d2rl-channels from=H.mat out=bank.npz``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d2rl.commands.one_site import at_one_site, mean_of_all
from d2rl.common.errors import InputError, counted
from d2rl.common.notices import notice_once
from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.full_duplex.env import FullDuplexEnv
from d2rl.problems.full_duplex.scenario_bank import link_budget
from d2rl.training.footprint import installed_bytes
from d2rl.wireless.array_files import open_arrays
from d2rl.wireless.bank_axes import looks_swapped
from d2rl.wireless.bank_file import NORMALISED_RANGE_DB
from d2rl.wireless.channel_bank import ChannelBank, estimated_gains
from d2rl.wireless.channel_map import Entry, arranged, entries_of, listed
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.listed_users import states_of_any, states_of_each
from d2rl.wireless.propagation import LinkGains

USERS = re.compile(r"\s*(\d{1,4})\s*\+\s*(\d{1,4})\s*")
LISTED_DROPS = 1000  # of a list of users, where nothing else is said
UNITS = ("auto", "noise", "propagation")
RAW_BELOW_DB, NOISE_ABOVE_DB = -30.0, 3.0  # median |h|^2 at which a unit is plain; between them nobody can tell
EQUAL_DB = 0.1  # spread of users' mean gains below which path loss was taken out
SPAN_DB = 150.0  # between the strongest and the weakest user, beyond any receiver
LEAKY_DB = -30.0  # self-interference over transmit power before any cancellation
Progress = Callable[[range], Iterable[int]]


def bank_from_file(
    path: str | Path,
    channel_map: str | None = None,
    *,
    users: str | None = None,
    drops: int | None = None,
    unit: str = "auto",
    snr: float | None = None,
    conjugate: bool = True,
    scenario: FullDuplexConfig | None = None,
    seed: int = 0,
    progress: Progress = iter,
) -> ChannelBank:
    """Read channels of MATLAB, HDF5, netCDF or NumPy, and of what DeepMIMO, QuaDRiGa and Sionna save.

    What full duplex needs and the file lacks (cross channels, self-interference) is drawn from the scenario's model.
    Whatever was guessed or drawn, or looks wrong, is said.

    Example::

        save_bank(bank_from_file("H.mat", "downlink:H:KNB", snr=20.0), "bank.npz")

    :param channel_map: KIND:NAME:AXES with commas, see :mod:`d2rl.wireless.channel_map`; None: guessed
    :param users: K_D+K_U of a state; None: every user of the file, in the downlink alone
    :param drops: states at most; from a list of users that many are drawn (None: 1000)
    :param unit: ``noise`` where noise and powers are folded in, ``propagation`` for amplitude gains
    :param snr: dB, mean of |h|^2 of the downlink at full power, to which the whole file is scaled; replaces the unit
    :param conjugate: the user receives h^T w, as programs save it; False: h^H w
    :param scenario: powers and noise, and the model of what the file lacks
    :param seed: of what is drawn
    :raises InputError: the file cannot be used; the message says why and what to do
    """
    scenario, path = scenario or FullDuplexConfig(), Path(path).expanduser()
    split = _users(users)
    with open_arrays(path, installed_bytes()) as arrays:
        entries = entries_of(channel_map, arrays)
        found = {}
        for entry in entries:
            listing = "U" in entry.axes
            array = torch.from_numpy(arranged(entry, arrays, None if listing else drops, progress))
            if entry.guessed:
                array = _ordered(array, entry)
                notice_once(f"{path}: read as map={entry}, which is a guess; the file holds {listed(arrays)}.")
            found[entry.kind] = array
    generator = np.random.default_rng(seed)
    listed_axes = [entry.axes for entry in entries if "U" in entry.axes]
    own_places = any("K" in axes for axes in listed_axes)
    if listed_axes:
        if list(found) != ["downlink"]:
            raise InputError(f"{path}: a list of users (axis U) must be the only array, named downlink.")
        places, states = found["downlink"], drops or LISTED_DROPS
        found["downlink"] = (
            states_of_each(places, states, generator, path)
            if own_places
            else states_of_any(places, sum(split or (0, 0)), states, generator, path, users)
        )
    coefficients = _directions(found, split, conjugate, path)
    coefficients = _without_dead_states(coefficients, path)
    return _bank(coefficients, unit, snr, scenario, seed, path, own_places)


def _users(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = USERS.fullmatch(text)
    if match is None or not sum(map(int, match.groups())):
        raise InputError(f"users={text} must be K_D+K_U, such as 8+0 or 6+4, not both 0.")
    return int(match[1]), int(match[2])


def _ordered(array: Tensor, entry: Entry) -> Tensor:
    """Users and antennas the other way round, where their powers say that a guess was wrong."""
    if entry.kind in ("downlink", "uplink") and "U" not in entry.axes and looks_swapped(array[:, 0]):
        turned = entry.axes.translate(str.maketrans("KN", "NK"))
        notice_once(
            f"{'+'.join(entry.names)} differs more along axis N than along K: they are exchanged, map=...:{turned}."
        )
        return array.transpose(-2, -1)
    return array


def _directions(
    found: dict[str, Tensor], split: tuple[int, int] | None, conjugate: bool, path: Path
) -> dict[str, Tensor]:
    """Channels of both directions [B, T, ...] by the conventions of the bank."""
    if "downlink" in found and "uplink" not in found:
        every = found["downlink"]
        down, up = split or (every.shape[2], 0)
        if down + up > every.shape[2]:
            raise InputError(f"{path} has {every.shape[2]} users in a state; users={down}+{up} asks for more.")
        if up:
            notice_once(f"{path}: by reciprocity, the uplink of the last {counted(up, 'user')} is their downlink.")
        found = {**found, "downlink": every[:, :, :down], "uplink": every[:, :, down : down + up]}
        # the base station receives h from a user to which it sends over h^T
        found["uplink"] = found["uplink"] if conjugate else found["uplink"].conj()
    if "downlink" in found and conjugate:
        found = {**found, "downlink": found["downlink"].conj().resolve_conj()}
    if not {"downlink", "uplink"} & found.keys():
        raise InputError(f"{path}: {' and '.join(found)} alone are no channels of a cell; map downlink or uplink, too.")
    return found


def _without_dead_states(found: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The states in which somebody is heard; users that nobody hears are told."""
    sizes = {name: tuple(tensor.shape[:2]) for name, tensor in found.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"{path}: the arrays hold different numbers of states and slots: {sizes}.")
    links = torch.cat([found[name].abs().amax((1, 3)) for name in ("downlink", "uplink") if name in found], dim=1) > 0
    alive = links.any(1)
    if not bool(alive.any()):
        raise InputError(f"{path}: every channel is 0; there is nobody to serve.")
    dead, silent = int((~alive).sum()), int((~links[alive]).sum())
    if dead:
        notice_once(f"{path}: left out: {counted(dead, 'state')} of {len(alive)} in which every channel is 0.")
    if silent:
        notice_once(
            f"{path}: {counted(silent, 'user')} in {int(alive.sum())} states have no path; nothing can serve them."
        )
    return {name: tensor[alive] for name, tensor in found.items()}


def _bank(
    found: dict[str, Tensor],
    unit: str,
    snr: float | None,
    scenario: FullDuplexConfig,
    seed: int,
    path: Path,
    site: bool,
) -> ChannelBank:
    """The bank, with what the file lacks drawn from the scenario's model; of a site all of it for the same users."""
    own = found.get("downlink", found.get("uplink"))
    assert own is not None
    powers = own.abs().square().mean((1, 3))
    levels = 10 * powers[powers > 0].log10()
    median = float(levels.median())
    unit = _unit(unit, snr, median, path)
    over_noise_db = link_budget(scenario).over_noise_db()
    if snr is None:
        _check_level(median + over_noise_db["downlink" if "downlink" in found else "uplink"] * (unit != "noise"), path)
    _look(powers, levels, path)
    if snr is not None:
        factor = float(10 ** (snr / 20) / powers.mean().sqrt())
        found, unit = {name: factor * tensor for name, tensor in found.items()}, "noise"
    states, slots = own.shape[:2]
    flat = {name: tensor.flatten(0, 1) for name, tensor in found.items()}
    down, up = (flat.get(name, own.new_zeros(states * slots, 0, 1)) for name in ("downlink", "uplink"))
    cell = replace(
        scenario,
        downlink_users=down.shape[1],
        uplink_users=up.shape[1],
        transmit_antennas=down.shape[2],
        receive_antennas=up.shape[2],
        channel_bank=None,
        stored_states=0,
        loads=None,
    )
    over_noise = {name: 10 ** (db / 20) for name, db in over_noise_db.items()}
    scale = {name: 1.0 if unit == "noise" else 1 / over_noise[name] for name in over_noise}
    gains: dict[str, Tensor] = {}  # of what is drawn
    if down.shape[1] and up.shape[1]:
        model = FullDuplexEnv(cell, states, seed).state
        model = at_one_site(model) if site else model
        for name in [name for name in ("cross", "self_interference") if name not in flat]:
            channel, gain = (getattr(one, name).repeat_interleave(slots, 0) for one in (model.channels, model.gains))
            flat[name], gains[name] = scale[name] * channel, scale[name] ** 2 * gain
        if gains:
            notice_once(f"{path}: {' and '.join(gains)} are not in the file and are drawn from the scenario's model.")
    else:
        flat["cross"] = own.new_zeros(len(down), up.shape[1], down.shape[1])
        flat["self_interference"] = own.new_zeros(len(down), up.shape[2], down.shape[2])
    channels = ChannelState(down, up, flat["cross"], flat["self_interference"]).validate()
    if "self_interference" in found:
        _check_leakage(channels, unit, over_noise["self_interference"], path)
    mean = estimated_gains(channels, slots)
    mean = mean.map(mean_of_all) if site else mean
    return ChannelBank(
        channels,
        LinkGains(**(mean.tensors() | gains)),
        torch.ones(channels.batch, channels.links),
        slots=slots,
        noise_normalised=unit == "noise",
        about=f"converted from {path.name}",
    )


def _unit(unit: str, snr: float | None, median: float, path: Path) -> str:
    """The unit of the file. :raises InputError: it cannot be told, or cannot be"""
    if unit not in UNITS:
        raise InputError(f"unit={unit} is unknown; choose one of {', '.join(UNITS)}.")
    if snr is not None:
        if unit != "auto":
            raise InputError(f"unit={unit} and snr={snr:g} exclude each other; leave one out.")
        return "noise"
    level = f"the median of |h|^2 is {median:.1f} dB"
    if unit == "propagation" and median > 0:
        raise InputError(f"{path}: unit=propagation, but {level}: no passive channel amplifies. Is it unit=noise?")
    if unit != "auto":
        return unit
    if median <= RAW_BELOW_DB:
        notice_once(f"{path}: {level}, so it is taken to be the gain of the propagation (unit=propagation).")
        return "propagation"
    if median >= NOISE_ABOVE_DB:
        notice_once(f"{path}: {level}, so it is taken to be over noise at full power (unit=noise).")
        return "noise"
    raise InputError(
        f"{path}: {level}, as of fading without path loss or power; say snr=20 for a mean of 20 dB at full power, or "
        "unit=noise where it is over noise as it is, or unit=propagation for gains of the propagation."
    )


def _check_level(level: float, path: Path) -> None:
    """Whether a median |h|^2 over noise, dB, can be that of a link. :raises InputError: it cannot"""
    if not NORMALISED_RANGE_DB[0] <= level <= NORMALISED_RANGE_DB[1]:
        raise InputError(
            f"{path}: the median of |h|^2 is {level:.0f} dB over noise at full power, which no link has. Say snr=20 "
            "for a mean of 20 dB, or unit=noise or unit=propagation where the other was guessed."
        )


def _look(gains: Tensor, levels: Tensor, path: Path) -> None:
    """Say what the users' mean gains [B, K] tell of a mistake."""
    span = float(levels.max() - levels.min())
    if gains.numel() > 1 and span < EQUAL_DB:
        notice_once(f"{path}: all users have the same mean gain, as if each had been normalised: path loss is lost.")
    if span > SPAN_DB:
        notice_once(
            f"{path}: users lie {span:.0f} dB apart, more than any receiver can bear; are some values of another unit?"
        )


def _check_leakage(channels: ChannelState, unit: str, over_noise: float, path: Path) -> None:
    """Self-interference must be below the transmit power; close to it, nothing was cancelled."""
    level = float(10 * channels.self_interference.abs().square().mean().clamp_min(1e-37).log10())
    level -= 20 * float(np.log10(over_noise)) if unit == "noise" else 0
    if level > 0:
        raise InputError(
            f"{path}: self-interference is {level:.0f} dB above the transmit power; no passive coupling amplifies. Is "
            "it of another unit than the users' channels?"
        )
    if level > LEAKY_DB:
        notice_once(
            f"{path}: self-interference is {-level:.0f} dB below the transmit power, as before any cancellation; "
            "residual levels are -60 to -130 dB."
        )

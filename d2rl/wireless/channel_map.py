"""Which arrays of a file are channels, and what their axes mean: as told by a map, or guessed from names and shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from d2rl.common.errors import InputError, meant
from d2rl.wireless.array_files import Stored
from d2rl.wireless.axis_parts import bracketed, positions

KINDS = {  # the axes that each array has in the end
    "downlink": "BTKN",
    "uplink": "BTKN",
    "cross": "BTKJ",
    "self_interference": "BTRN",
}
AXES = {
    "B": "states",
    "U": "users of whom states are drawn, or beside K places of each user",
    "T": "slots that follow each other",
    "K": "users of a state",
    "N": "antennas of the base station",
    "R": "its receive antennas",
    "J": "downlink users of a cross channel",
    "M": "antennas of a user, the first is taken",
    "S": "base stations, the first is taken",
    "F": "subcarriers, the middle one is taken",
    "P": "paths, which are summed",
    "C": "real and imaginary part",
}
PICKED = {"M": lambda size: 0, "S": lambda size: 0, "F": lambda size: size // 2}
AXIS = re.compile(r"([A-Za-z])(?:\[([^\]]+)\])?")
ENTRY = re.compile(rf"\s*(\w+)\s*:\s*([^:,+]+)(?:\+([^:,+]+))?(?::\s*((?:{AXIS.pattern})+))?\s*")
# axes of files that are known by the last part of an array's name and its dimensions
KNOWN = {
    ("a", 6): "UMSNPT",  # Sionna RT, Paths.cir: rx, rx antenna, tx, tx antenna, path, time
    ("a", 7): "BKMSNPT",  # Sionna's channel models: the same for each of a batch
    ("channel", 4): "UMNF",  # DeepMIMO 2 to 4: user, its antenna, antenna, subcarrier
    ("channels", 4): "UMNF",
    ("channel", 3): "UNF",  # DeepMIMO 1: user, antenna, subcarrier
    ("channel", 5): "UMNFT",  # DeepMIMO 4 with several times
    ("channel_*_Coeffs", 5): "UMNPT",  # QuaDRiGa, mat_save: one array for each user
    ("channel_*_Coeffs", 4): "UMNP",
    ("coeff", 5): "UMNPT",  # QuaDRiGa, coefficients of an array of channels
    ("coeff", 4): "MNPT",
}
USUAL = {
    "downlink": ("downlink", "h_dl", "hdl", "h_d", "g", "h", "channel", "channels", "csi", "a", "coeff"),
    "uplink": ("uplink", "h_ul", "hul", "h_u"),
    "cross": ("cross", "h_cross", "f"),
    "self_interference": ("self_interference", "h_si", "hsi", "si"),
}
PAIRS = (("_re", "_im"), ("_real", "_imag"), ("re", "im"), ("_r", "_i"), ("real", "imag"))
CHUNK = 2**26  # bytes of one reading


@dataclass(frozen=True)
class Entry:
    """One array of channels.

    :param kind: of :data:`KINDS`
    :param names: of the array, or of its real and its imaginary part
    :param axes: a letter of :data:`AXES` for each
    :param only: what is taken of an axis, by its letter, as Python writes a slice or an index
    :param guessed: whether nobody has told
    """

    kind: str
    names: tuple[str, ...]
    axes: str
    only: Mapping[str, str] = field(default_factory=dict)
    guessed: bool = False

    def __str__(self) -> str:
        axes = "".join(f"{letter}[{self.only[letter]}]" if letter in self.only else letter for letter in self.axes)
        return f"{self.kind}:{'+'.join(self.names)}:{axes}"

    def taken(self, shape: tuple[int, ...]) -> list[range]:
        """What is taken of every axis of an array of that shape. :raises ValueError: no such slice"""
        return [range(size)[bracketed(self.only.get(one, ":"))] for one, size in zip(self.axes, shape, strict=True)]


def entries_of(text: str | None, arrays: Mapping[str, Stored]) -> list[Entry]:
    """The channels of a file, as ``text`` says, such as ``downlink:H:KNB,uplink:Hre+Him:BKN``; None: guessed.

    :raises InputError: it names what is not there, or does not fit; nothing could be guessed
    """
    if text is None:
        return _guessed(arrays)
    found: list[Entry] = []
    for part in text.split(","):
        match = ENTRY.fullmatch(part)
        if match is None:
            raise InputError(f"map={text}: {part!r} must be KIND:NAME:AXES, such as downlink:H:BKN, commas between.")
        kind, real, imaginary, axes = match.groups()[:4]
        if kind not in KINDS:
            raise InputError(f"map={text}: {kind} is no kind of channel; they are {', '.join(KINDS)}.")
        names = tuple(filter(None, (real, imaginary)))
        for name in names:
            if name not in arrays:
                raise InputError(
                    f"map={text}: there is no {name}.{meant(name, arrays)} The file holds {listed(arrays)}."
                )
        if kind in [one.kind for one in found]:
            raise InputError(f"map={text}: {kind} is there twice.")
        letters = [(letter.upper(), only) for letter, only in AXIS.findall(axes or "")]
        entry = Entry(
            kind, names, "".join(letter for letter, _ in letters), {one: only for one, only in letters if only}
        )
        found.append(_checked(entry, arrays, text) if axes else _with_axes(entry, arrays))
    return found


def listed(arrays: Mapping[str, Stored]) -> str:
    """Arrays with their shapes."""
    return ", ".join(f"{name} {array.shape}" for name, array in list(arrays.items())[:20])


def arranged(
    entry: Entry,
    arrays: Mapping[str, Stored],
    most: int | None = None,
    progress: Callable[[range], Iterable[int]] = iter,
) -> np.ndarray:
    """The array [B or U, T, ...] with the axes of its kind, complex64, read in parts along its first axis.

    In a list of users (U) NaN is a place that was not measured: all of its channel is 0.

    :param most: of the first axis; None: all
    :param progress: iterates over the range that it is given, and may show how far it is
    :raises InputError: not finite
    """
    shape, axes = arrays[entry.names[0]].shape, entry.axes
    lead = next((letter for letter in "BU" if letter in axes), None)
    along = axes.index(lead) if lead else 0
    taken = entry.taken(shape)
    rows = taken[along][: most if lead else None]
    others = tuple(slice(None) if axis == along else positions(one) for axis, one in enumerate(taken))
    step = max(1, CHUNK // (16 * max(1, math.prod(shape) // max(shape[along], 1))))
    parts = []
    for start in progress(range(0, len(rows), step)):
        read = [arrays[name].part(along, positions(rows[start : start + step]))[others] for name in entry.names]
        part = read[0] + 1j * read[1] if len(read) == 2 else read[0]
        parts.append(_turned(part, axes, entry.kind).astype(np.complex64))
        if lead == "U":
            missing = np.isnan(parts[-1]).any((1, -1), keepdims=True)
            parts[-1] = np.where(missing, 0, parts[-1])
        bad = np.flatnonzero(~np.isfinite(parts[-1]).reshape(len(parts[-1]), -1).all(1))
        if bad.size:
            raise InputError(
                f"{'+'.join(entry.names)} holds NaN or infinite values along its axis {axes[along]} "
                f"({AXES[axes[along]]}): at {bad.size} of {len(parts[-1])}, the first at {rows[start + bad[0]]}. "
                "Remove those, or set users without a path to 0; lists of places (axis U) may have gaps of NaN."
            )
    return np.concatenate(parts)


def _turned(part: np.ndarray, axes: str, kind: str) -> np.ndarray:
    """One part with the axes of its kind: what is to be picked is picked, paths are summed."""
    for letter in [one for one in axes if one in PICKED or one in "PC"]:
        axis = axes.index(letter)
        if letter == "C":
            real, imaginary = np.moveaxis(part, axis, 0)
            part = real + 1j * imaginary
        elif letter == "P":
            part = part.sum(axis)
        else:
            part = part.take(PICKED[letter](part.shape[axis]), axis=axis)
        axes = axes.replace(letter, "")
    wanted = KINDS[kind]
    if "U" in axes:
        wanted = wanted.replace("B", "U").replace("K", "K" if "K" in axes else "")
    for letter in wanted:
        if letter not in axes:
            part, axes = part[None], letter + axes
    return part.transpose([axes.index(letter) for letter in wanted])


def _checked(entry: Entry, arrays: Mapping[str, Stored], text: str) -> Entry:
    """The entry, if its axes can be. :raises InputError: they cannot"""
    array, axes, told = arrays[entry.names[0]], entry.axes, f"map={text}: {entry}"
    unknown = [letter for letter in axes if letter not in AXES]
    if unknown or len(set(axes)) < len(axes):
        letters = ", ".join(f"{letter} {meaning}" for letter, meaning in AXES.items())
        raise InputError(f"{told} has axes that are unknown or there twice; the letters are {letters}.")
    if len(axes) != len(array.shape):
        raise InputError(f"{told} names {len(axes)} axes, and {entry.names[0]} has shape {array.shape}.")
    try:
        taken = entry.taken(array.shape)
    except ValueError:
        raise InputError(
            f"{told}: brackets hold an index or a slice with a step of 1 or more, such as N[0:8:2]."
        ) from None
    for letter, size, numbers in zip(axes, array.shape, taken, strict=True):
        if size and not numbers:
            raise InputError(f"{told}: {letter}[{entry.only[letter]}] takes nothing of an axis of size {size}.")
    missing = [letter for letter in KINDS[entry.kind][2:] if letter not in axes and not (letter == "K" and "U" in axes)]
    if missing or {"U", "B"} <= set(axes):
        raise InputError(
            f"{told} must have the axes {' and '.join(KINDS[entry.kind][2:])} ({AXES[KINDS[entry.kind][-1]]} last), or "
            "U in place of B and K: a list of users; or K and U: a list of places of each user."
        )
    if "C" in axes and len(taken[axes.index("C")]) != 2:
        raise InputError(f"{told}: axis C must be of size 2, real and imaginary part, and has {array.shape}.")
    if "C" not in axes and len(entry.names) == 1 and not array.is_complex:
        raise InputError(
            f"{entry.names[0]} {array.shape} is real, and channels are complex: magnitudes or dB alone cannot be used. "
            "Name both parts as RE+IM, or their axis as C."
        )
    if len(entry.names) == 2 and array.shape != arrays[entry.names[1]].shape:
        raise InputError(f"{told}: the two parts have shapes {array.shape} and {arrays[entry.names[1]].shape}.")
    return entry


def _guessed(arrays: Mapping[str, Stored]) -> list[Entry]:
    """Channels by the usual names; the one that is left as the downlink. :raises InputError: none could be found"""
    candidates = _candidates(arrays)
    found = []
    for kind, usual in USUAL.items():
        for names in candidates:
            last = names[0].rpartition(".")[2].lower()
            last = min((last.removesuffix(pair[0]) for pair in PAIRS), key=len) if len(names) == 2 else last
            if last in usual or (kind == "downlink" and last == "channel_*_coeffs"):
                found.append(Entry(kind, names, "", guessed=True))
                break
    if not found and len(candidates) == 1:
        found = [Entry("downlink", candidates[0], "", guessed=True)]
    if not found:
        raise InputError(
            f"no array is known by its name as channels, the file holds {listed(arrays)}; say which one, such as "
            f"map=downlink:{next(iter(arrays))}:BKN."
        )
    return [_with_axes(entry, arrays) for entry in found]


def _candidates(arrays: Mapping[str, Stored]) -> list[tuple[str, ...]]:
    """Names of complex arrays, of pairs of real ones, and of real ones with an axis of two parts."""
    found: list[tuple[str, ...]] = []
    for name, array in arrays.items():
        if len(array.shape) < 2:
            continue
        if array.is_complex or (len(array.shape) > 2 and array.shape[-1] == 2):
            found.append((name,))
            continue
        for real, imaginary in PAIRS:
            other = name.removesuffix(real) + imaginary
            if name.endswith(real) and other in arrays and arrays[other].shape == array.shape:
                found.append((name, other))
                break
    return found


def _with_axes(entry: Entry, arrays: Mapping[str, Stored]) -> Entry:
    """The entry with guessed axes. :raises InputError: they cannot be guessed"""
    array, name = arrays[entry.names[0]], entry.names[0].rpartition(".")[2]
    shape, parts = array.shape, "C" if len(entry.names) == 1 and not array.is_complex else ""
    dims = len(shape) - len(parts)
    axes = KNOWN.get((name, dims)) if entry.kind in ("downlink", "uplink") else None
    if axes == "UNF" and shape[1] == 1:
        axes = "UMN"  # one antenna of the user; MATLAB leaves out a last axis of size 1
    if axes is None:
        usual = {3: "B" + KINDS[entry.kind][2:], 4: KINDS[entry.kind]}
        if entry.kind in ("downlink", "uplink"):
            usual[2] = "UN"
        if dims not in usual:
            raise InputError(
                f"the axes of {entry.names[0]} {shape} cannot be guessed; name them, such as "
                f"map={entry.kind}:{'+'.join(entry.names)}:BTKN. The letters are "
                f"{', '.join(f'{letter} {meaning}' for letter, meaning in AXES.items())}."
            )
        axes = usual[dims]
        if dims == 3:
            axes = _ordered(shape)
        elif dims == 2 and shape[0] < shape[1]:
            axes = "NU"
        if entry.kind not in ("downlink", "uplink"):
            axes = axes.replace("K", KINDS[entry.kind][2]).replace("N", KINDS[entry.kind][3])
    return _checked(replace(entry, axes=axes + parts, guessed=True), arrays, f"{entry.kind}:{entry.names[0]}")


def _ordered(shape: tuple[int, ...]) -> str:
    """Three axes: states are most, and come first or, as MATLAB's programs have it, last."""
    most = shape.index(max(shape))
    return {0: "BKN", 1: "KBN", 2: "KNB"}[most]

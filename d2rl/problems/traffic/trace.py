"""Recorded arrivals: a file of slots, links and bits."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2rl.common.errors import InputError, counted

COLUMNS = ("slot", "link", "bits")
MOST_SLOTS = 10**7  # of a trace; a day of 10 ms slots has 8.6 million


def load_trace(path: str | Path, links: int, slots: int) -> Tensor:
    """Bits that arrive for every link in every slot of a trace, [S, K]; what one slot brings a link adds up.

    The file is a CSV with the columns ``slot``, ``link`` and ``bits``, one row for each packet, or an .npz with these
    arrays. Slots and links count from 0, links of the downlink first; the trace ends with its last slot.

    :param links: K      :param slots: that it must have at least
    :raises InputError: names the file, the row and the remedy
    """
    path = Path(path)
    columns = _read_npz(path) if path.suffix == ".npz" else _read_csv(path)
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1 or not lengths["slot"]:
        told = ", ".join(f"{count} of {name}" for name, count in lengths.items())
        raise InputError(f"{path} has {told}; a trace has as many of each, and one at least.")
    for name, column in columns.items():
        _refuse(path, name, column, ~np.isfinite(column), "is no number")
        _refuse(path, name, column, column < 0, "must not be negative")
    for name in ("slot", "link"):
        _refuse(path, name, columns[name], columns[name] % 1 != 0, "must be a whole number")
    _refuse(
        path, "link", columns["link"], columns["link"] >= links, f"does not exist: the cell has links 0 to {links - 1}"
    )
    _refuse(path, "slot", columns["slot"], columns["slot"] >= MOST_SLOTS, f"must be below {MOST_SLOTS:,}")
    last = int(columns["slot"].max())
    if last + 1 < slots:
        raise InputError(
            f"{path} has {counted(last + 1, 'slot')}, too few for episodes of {slots:,}; record more, or lower "
            "scenario.episode_length."
        )
    place = columns["slot"].astype(np.int64) * links + columns["link"].astype(np.int64)
    bits = np.bincount(place, columns["bits"], (last + 1) * links)
    return torch.from_numpy(bits.astype(np.float32)).unflatten(0, (-1, links))


def _refuse(path: Path, name: str, column: NDArray[np.float64], wrong: NDArray[np.bool_], reason: str) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{path}: {name} {column[row]:g} of packet {row} {reason}.")


def _read_npz(path: Path) -> dict[str, NDArray[np.float64]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or 'it is damaged'}; give the path of a trace."
        ) from None
    except Exception:  # of a file from anywhere, a reader may raise anything
        raise InputError(f"{path} cannot be read: it is damaged, or holds more than plain arrays.") from None
    _check_names(path, list(content))
    columns = {}
    for name in COLUMNS:
        if content[name].ndim != 1 or content[name].dtype.kind not in "iuf":
            raise InputError(
                f"{path}: {name} is an array of {content[name].dtype} with shape {content[name].shape}; it must hold "
                "one number for each packet."
            )
        columns[name] = content[name].astype(np.float64)
    return columns


def _read_csv(path: Path) -> dict[str, NDArray[np.float64]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            names = [name.strip() for name in next(csv.reader(file), [])]
            _check_names(path, names)
            rows = [row for row in csv.reader(file) if row]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give the path of a trace.") from None
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{path} is neither .npz nor CSV; a trace has the columns {', '.join(COLUMNS)}.") from None
    for number, row in enumerate(rows):
        if len(row) != len(COLUMNS):
            raise InputError(f"{path}: packet {number} has {counted(len(row), 'value')} for {', '.join(names)}.")
    try:
        table = np.array(rows, dtype=np.float64).reshape(-1, len(COLUMNS))
    except ValueError as error:
        raise InputError(f"{path} holds what is no number ({error}); {', '.join(names)} must be numbers.") from None
    return dict(zip(names, table.T, strict=True))


def _check_names(path: Path, names: list[str]) -> None:
    if sorted(names) != sorted(COLUMNS):
        raise InputError(f"{path} has {', '.join(names) or 'nothing'}; a trace has {', '.join(COLUMNS)}.")

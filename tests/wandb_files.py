"""What an offline run of W&B holds: its own messages, in the log format of LevelDB."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, FILE_HEADER, HEADER = 32768, 7, struct.Struct("<IHB")  # bytes; checksum, length and kind of a piece
WHOLE, LAST = 1, 4


def records(path: Path) -> Iterator[Record]:
    """Everything that was recorded, in order; not what is being written."""
    data, place, message = path.read_bytes(), FILE_HEADER, b""
    while place + HEADER.size <= len(data):
        if BLOCK - place % BLOCK < HEADER.size:  # a header is never split
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(data, place)
        place += HEADER.size
        if place + length > len(data):
            return
        message += data[place : place + length]
        place += length
        if kind in (WHOLE, LAST):
            yield Record.FromString(message)
            message = b""


def parts(folder: Path) -> list[list[Record]]:
    """Records of every part of the runs in a ``wandb`` folder, in order of their beginning.

    W&B's own process writes them, and may do so a little after the run's end.
    """
    files, deadline = sorted(folder.glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime), 30.0
    begin = time.monotonic()
    while not all(any(r.HasField("exit") for r in records(path)) for path in files):
        assert time.monotonic() - begin < deadline, f"a run in {folder} has not ended"
        time.sleep(0.05)
    return [list(records(path)) for path in files]


def identity(part: list[Record]) -> str:
    """Id of its run."""
    return next(record.run.run_id for record in part if record.HasField("run"))


def configuration(part: list[Record]) -> dict[str, Any]:
    """What the run was begun with."""
    (run,) = [record.run for record in part if record.HasField("run")]
    return {entry.key: json.loads(entry.value_json) for entry in run.config.update}


def rows(part: list[Record]) -> dict[int, dict[str, Any]]:
    """Logged values by W&B's step, without what W&B adds and without times."""
    found: dict[int, dict[str, Any]] = {}
    for record in part:
        if record.HasField("history"):
            values = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
            }
            assert values["_step"] not in found
            kept = {name: value for name, value in values.items() if not name.startswith(("_", "time/"))}
            found[values["_step"]] = kept
    return found


def status(part: list[Record]) -> int:
    """Exit status that the run ended with."""
    return next(record.exit.exit_code for record in part if record.HasField("exit"))

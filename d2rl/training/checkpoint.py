"""Checkpoints are data: read without running any code they may carry, and written whole or not at all.

A checkpoint is the zip file that ``torch.save`` makes. Its zip comment carries the SHA-256 of all bytes before the
comment, so that the checksum cannot be lost, or be that of another file, and ``torch.load`` reads the file as ever.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from d2rl.common.distributed import world_size
from d2rl.common.errors import CheckpointError, RunError, first_line
from d2rl.common.files import replacing
from d2rl.config.load import from_mapping
from d2rl.problems import DEFAULT, config_class
from d2rl.runs.run_directory import find_checkpoint

FORMAT = 1  # raised when a checkpoint of before can no longer be read
MARK = b"d2rl sha256 "
COMMENT = len(MARK) + 2 * hashlib.sha256().digest_size
OURS = {"config": dict, "stages": dict, "updates": int, "environment_steps": int}


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's place for how checkpoints are stored: whole, with checksum, as data.

    Example::

        Trainer(plugins=[CheckpointFiles()]).fit(agent, steps)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """See :func:`write_checkpoint`; a run of several processes ends where that fails.

        :raises RunError: it failed in one of several processes
        """
        try:
            write_checkpoint(checkpoint, path)
        except OSError as error:
            if world_size() == 1:
                raise
            # of several processes only this one knows; going on, they would wait for each other
            raise RunError(
                f"{path} cannot be written: {error.strerror or error}; the file of before is whole: make room, then "
                "resume it."
            ) from None

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """See :func:`load_checkpoint`; weights alone, whatever the caller asks for."""
        return load_checkpoint(path)


def write_checkpoint(content: dict[str, Any], path: str | Path) -> None:
    """Write a checkpoint with its format and checksum; the file of before stays until this one is whole.

    :param content: what Lightning gathered, with our part under ``d2rl``
    :raises OSError: no space, no directory, no permission; the file of before is as it was
    """
    ours = {**content["d2rl"], "format": FORMAT}
    with replacing(path) as file:
        torch.save({**content, "d2rl": ours}, file)
        file.seek(-2, 2)  # a zip file ends with the length of its comment
        file.write(struct.pack("<H", COMMENT))
        digest = _digest(file, file.tell())
        file.write(MARK + digest.encode())


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Content of a checkpoint file, on the CPU.

    :raises CheckpointError: a file that is missing, damaged, carries code, has another format, or is not one of ours
    """
    try:
        with open(path, "rb") as file:
            _verify(file, path)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist.") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} {_code(error)}; give another one.") from None
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({first_line(error)}); give another one.") from None
    _check(content, path)
    return content


def open_checkpoint(given: str | Path, prefer: str, key: str = "") -> tuple[Path, dict[str, Any], Any]:
    """The checkpoint that ``given`` means: its file, its content and its configuration.

    :param given: a file or a run directory
    :param prefer: ``last`` or ``best``, of a run directory
    :param key: that asks for it, begins every message
    :raises CheckpointError: it cannot be found or read
    """
    try:
        path = find_checkpoint(given, prefer)
        content = load_checkpoint(path)
        return path, content, config_of(content)
    except CheckpointError as error:
        raise CheckpointError(f"{key}={given}: {error.args[0]}" if key else error.args[0]) from None


def config_of(checkpoint: dict[str, Any]) -> Any:
    """The configuration that a checkpoint carries."""
    saved = checkpoint["d2rl"]["config"]
    return from_mapping(saved, config_class(saved.get("problem", DEFAULT)))


def _digest(file: IO[bytes], length: int) -> str:
    """SHA-256 of the first bytes of a file, whose position is then behind them."""
    file.seek(0)
    sha = hashlib.sha256()
    while length > 0 and (block := file.read(min(length, 1 << 20))):
        sha.update(block)
        length -= len(block)
    return sha.hexdigest()


def _verify(file: IO[bytes], path: str | Path) -> None:
    size = file.seek(0, 2)
    file.seek(max(0, size - COMMENT))
    comment = file.read()
    if not comment.startswith(MARK):
        raise CheckpointError(
            f"{path} is truncated, or not a checkpoint of d2rl: it does not end with a checksum; "
            "give one that d2rl-train wrote."
        )
    if _digest(file, size - COMMENT) != comment.removeprefix(MARK).decode(errors="replace"):
        raise CheckpointError(f"{path} is damaged: its bytes do not match its checksum; give another one.")


def _check(content: Any, path: str | Path) -> None:
    ours = content.get("d2rl") if isinstance(content, dict) else None
    if not isinstance(ours, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{path} is not a checkpoint of d2rl; give one that d2rl-train wrote.")
    if ours.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {ours.get('format')} and this version of d2rl reads format {FORMAT}; "
            "use the version that wrote it, or train again."
        )
    wrong = [name for name, kind in OURS.items() if not isinstance(ours.get(name), kind)]
    if wrong:
        raise CheckpointError(f"{path} lacks {', '.join(wrong)}; give a checkpoint that d2rl-train wrote.")


def _code(error: pickle.UnpicklingError) -> str:
    """What it would have run, where torch tells."""
    found = re.search(r"Unsupported (?:global|class|operand)[^:]*:? ?(?:GLOBAL )?([\w.]+)", str(error))
    name = f" ({found[1]})" if found else ""
    return f"holds more than plain data{name} and could run code; nothing of it was run"

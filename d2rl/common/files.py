"""Files that are whole or not there at all, and what is said of those that cannot be written."""

from __future__ import annotations

import errno
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from d2rl.common.errors import ConfigError, UserError
from d2rl.common.notices import notice_once

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

UNFINISHED = ".unfinished"  # ends the name of a file that is not whole yet


def write_json(path: str | Path, data: Any) -> None:
    """Write atomically; numbers that are not finite become null, tensors and arrays numbers or lists."""
    write_text(path, json.dumps(_plain(data), indent=2, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """:func:`write_bytes` of UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Replace a file in one step: a reader, or a crash, meets the old content or the new one."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of ``path`` in one step, once it is whole and on the disk.

    :raises OSError: it could not be written; ``path`` is as it was
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        with open(temporary, "w+b") as file:
            try:
                yield file
            except RuntimeError as error:  # torch.save's own, while it handles that the disk is full
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(what: str, remedy: str, error: type[UserError] = ConfigError) -> Iterator[None]:
    """One message where something inside cannot be written.

    :param what: key and path, such as ``out=a.png``
    :param remedy: what a person can do
    :param error: what is raised
    :raises UserError: it cannot be written
    """
    try:
        yield
    except OSError as reason:
        raise error(f"{what} cannot be written: {reason.strerror or reason}; {remedy}.") from None


def check_writable(path: str | Path, what: str, remedy: str, error: type[UserError] = ConfigError) -> None:
    """Whether a file can be made there, before the work for it begins; its folders need not be there yet.

    :raises UserError: as :func:`writing`
    """
    path = Path(path)
    with writing(what, remedy, error):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=next(one for one in path.absolute().parents if one.exists())):
            pass


class Attempt:
    """Whether writing something failed."""

    failed = False


@contextmanager
def keeping_on(path: str | Path) -> Iterator[Attempt]:
    """What fails to be written inside is said once, and the run goes on; it is tried again at the next occasion."""
    attempt = Attempt()
    try:
        yield attempt
    except OSError as error:
        attempt.failed = True
        notice_once(f"{path} cannot be written: {error.strerror or error}; training goes on, and tries again later")


def _sync_folder(folder: Path) -> None:
    """Make a renaming last, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def try_lock(file: int) -> bool:
    """Lock an open file against other processes; False where the system or the file system has no locks.

    :param file: its descriptor
    :raises BlockingIOError: another process has it
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    if isinstance(data, float):
        return float(data) if math.isfinite(data) else None
    if hasattr(data, "tolist"):  # tensors, arrays
        return _plain(data.tolist())
    return str(data) if isinstance(data, Path) else data

"""Errors that a person can mend: one clear message, exit status 2, no traceback."""

from __future__ import annotations

import difflib
import shlex
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


def counted(number: int, noun: str, plural: str = "") -> str:
    """1 state, 2 states, 1,024 states."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def meant(given: str, known: Iterable[str], alike: float = 0.6) -> str:
    """ " Did you mean X?" with the nearest of the known words, empty where none is near.

    :param alike: how near, 0 to 1
    """
    near = difflib.get_close_matches(given, list(known), 1, alike)
    return f" Did you mean {near[0]}?" if near else ""


def first_line(error: BaseException) -> str:
    """What an error says, its first 200 letters on one line; its kind where it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def placed(error: Exception) -> str:
    """What an error in a stranger's code says, its kind, and where that was."""
    if isinstance(error, SyntaxError):
        file, line = error.filename, error.lineno
    else:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        file, line = frame.filename, frame.lineno
    return f"{type(error).__name__}: {first_line(error).rstrip('.')} ({file}, line {line})"


def typed(key: str, value: object) -> str:
    """KEY=VALUE as it is typed in a shell, blanks and all."""
    return shlex.quote(f"{key}={value}")


class UserError(Exception):
    """Something outside the program cannot be used; the message names it and the remedy."""

    kind = "input"

    def __str__(self) -> str:
        return f"{self.kind} error: {super().__str__()}"


class ConfigError(UserError):
    """A configuration key or value that cannot be used."""

    kind = "config"


@contextmanager
def named_by(key: str) -> Iterator[None]:
    """Data that cannot be used inside is the mistake of a key, which the message then names.

    :param key: with its section, such as ``traffic.trace``
    :raises ConfigError: in the place of an :class:`InputError`
    """
    try:
        yield
    except InputError as error:
        raise ConfigError(f"{key}: {error.args[0]}") from None


class CheckpointError(UserError):
    """A checkpoint or run directory that cannot be used."""

    kind = "checkpoint"


class InputError(UserError):
    """Data that cannot be used: channels, powers, weights, files."""


class TrainingError(UserError):
    """A training that cannot go on."""

    kind = "training"


class RunError(UserError):
    """A run that cannot keep what it makes."""

    kind = "run"


class Interrupted(BaseException):
    """Ctrl-C or a request to end; the run has saved what it could. As KeyboardInterrupt, it is no Exception.

    :param signal: its number
    :param message: what became of the run
    """

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(message)
        self.signal = signal

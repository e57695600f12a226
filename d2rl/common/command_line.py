"""What every command shares: help, one clear message for a person's mistake, exit statuses."""

from __future__ import annotations

import inspect
import logging
import os
import platform
import select
import signal
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from typing import Any

from d2rl.common.errors import ConfigError, Interrupted, UserError
from d2rl.config.defaults import Config
from d2rl.config.key_use import unused
from d2rl.config.schema import help_text

USER_ERROR, BROKEN_PIPE = 2, 141
HELP, VERSION = {"-h", "--help"}, {"-V", "--version"}
NOISE = ("does not have many workers", "Checkpoint directory", r"isinstance\(treespec, LeafSpec\)")
TALKATIVE = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer.connectors.checkpoint_connector")
SHORT = {"drops": "evaluation.drops", "seed": "evaluation.seed", "best_of": "evaluation.best_of"}
SHORT |= {"ascend": "evaluation.ascend", "refine": "evaluation.refine"}  # keys of an evaluation by a name of their own

WITH_PLACE = warnings.showwarning

_running = False


def run(main: Callable[[list[str]], None], schema: type | None = Config, command: str = "train") -> None:
    """Call ``main`` with the command's arguments; mistakes of the program keep their traceback.

    Exit status: 0 done, 2 a :class:`UserError`, 130 interrupted by Ctrl-C, 143 by SIGTERM, 141 nobody reads the output.

    Example::

        if __name__ == "__main__":
            run(main)

    :param main: its docstring heads ``--help``
    :param schema: the dataclass tree whose keys ``--help`` lists; None: it has none
    :param command: whose keys those are, see :mod:`d2rl.config.key_use`
    """
    global _running
    arguments, _running = sys.argv[1:], True
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append("")  # MODULE:CLASS of a file in this folder, as `python -m` finds it
    signal.signal(signal.SIGTERM, _terminated)
    _quiet()
    try:
        if HELP & set(arguments):
            print(inspect.getdoc(main) or "")
            if schema is not None:
                print("", help_text(schema, lambda key: not unused(key, command)), sep="\n", end="")
        elif VERSION & set(arguments):
            print(versions())
        else:
            main(arguments)
        sys.stdout.flush()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(USER_ERROR)
    except Interrupted as stop:
        _interrupted(stop)
    except KeyboardInterrupt:
        _interrupted(Interrupted(signal.SIGINT, "interrupted"))
    except BrokenPipeError:
        if not _unread():  # some other pipe: a mistake of the program
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit shall not complain
        sys.exit(BROKEN_PIPE)
    finally:
        _running = False


def versions() -> str:
    """What a report of a fault should name."""
    told = [f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"]
    for name in ("d2rl", "torch", "numpy", "lightning", "gymnasium", "wandb"):
        try:
            told.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            told.append(f"{name} not installed")
    return ", ".join(told)


def own_keys(arguments: list[str], command: str, **needed: str) -> tuple[dict[str, str], list[str]]:
    """ckpt and out, the keys of a command itself, and the others under their full names.

    :param command: its name, for messages
    :param needed: what must be given, and what that is
    :raises ConfigError: one of the two is missing or has no value
    """
    given: dict[str, str] = {}
    rest = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in ("ckpt", "out"):
            if not value:
                raise ConfigError(f"{key}= has no value; give a path.")
            given[key] = value
        else:
            rest.append(f"{SHORT[key]}={value}" if equals and key in SHORT else argument)
    for key, meaning in needed.items():
        if key not in given:
            raise ConfigError(f"{command} needs {key}={meaning}.")
    return given, rest


def owns_process() -> bool:
    """Whether this process is a command's, and not a notebook or another program that calls d2rl."""
    return _running


def _quiet() -> None:
    """Keep the terminal for what the person asked for."""
    os.environ.setdefault("WANDB_SILENT", "true")
    logging.basicConfig(format="%(message)s")
    logging.raiseExceptions = False  # W&B's log on a full disk
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # its lost connection
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    logging.getLogger("d2rl").setLevel(logging.INFO)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in NOISE:
        warnings.filterwarnings("ignore", message=f".*{message}.*")
    warnings.showwarning = _shown  # not formatwarning, which Lightning sets where it is imported


def _shown(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """What concerns the person without the line of the program that says it."""
    if issubclass(category, UserWarning):
        print(message, file=sys.stderr)
    else:
        WITH_PLACE(message, category, *place, **more)


def _interrupted(stop: Interrupted) -> None:
    print(stop, file=sys.stderr)
    sys.exit(128 + stop.signal)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number, "terminated")


def _unread() -> bool:
    """Whether the reader of the standard output has gone; True where the system cannot tell."""
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))

"""What every command shares: help, one clear message for a person's mistake, exit statuses."""

from __future__ import annotations

import inspect
import os
import select
import signal
import sys
from collections.abc import Callable
from types import FrameType

from d2rl.common.errors import Interrupted, UserError
from d2rl.config.defaults import Config
from d2rl.config.load import help_text
from d2rl.key_use import unused

USER_ERROR, BROKEN_PIPE = 2, 141


def run(main: Callable[[list[str]], None], schema: type = Config, command: str = "train") -> None:
    """Call ``main`` with the command's arguments; mistakes of the program keep their traceback.

    Exit status: 0 done, 2 a :class:`UserError`, 130 interrupted by Ctrl-C, 143 by SIGTERM, 141 nobody reads the output.

    Example::

        if __name__ == "__main__":
            run(main)

    :param main: its docstring heads ``--help``
    :param schema: the dataclass tree whose keys ``--help`` lists
    :param command: whose keys those are, see :mod:`d2rl.key_use`
    """
    arguments = sys.argv[1:]
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if {"-h", "--help"} & set(arguments):
            print(
                inspect.getdoc(main) or "", help_text(schema, lambda key: not unused(key, command)), sep="\n\n", end=""
            )
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
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning's Trainer turns Ctrl-C into exit(1)
            _interrupted(Interrupted(signal.SIGINT, "interrupted"))
        raise
    except BrokenPipeError:
        if not _unread():  # some other pipe: a mistake of the program
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit shall not complain
        sys.exit(BROKEN_PIPE)


def _interrupted(stop: Interrupted) -> None:
    print(stop, file=sys.stderr)
    sys.exit(128 + stop.signal)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number, "terminated")


def _unread() -> bool:
    """Whether the reader of the standard output has gone."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))

"""Where a run writes, and where its checkpoints are found again."""

from __future__ import annotations

import difflib
import logging
import os
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

from d2rl.common.errors import CheckpointError, ConfigError, RunError, typed
from d2rl.common.files import UNFINISHED, keeping_on, try_lock, write_text, writing
from d2rl.config.defaults import Config
from d2rl.config.load import to_yaml

logger = logging.getLogger(__name__)

RUNS = Path("runs")
CONTENTS = ("config.yaml", "metrics.csv", "timing.json", "eval.json", "checkpoints")
LOCK = ".lock"


class RunDirectory:
    """The files of one run, held against other processes until :meth:`release` or the end of the process.

    Example::

        run = RunDirectory.create(config, conf_name(arguments))
        write_json(run.timing, {"device": "cpu"})

    :param path: an existing directory; :meth:`create` makes one
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.csv"
        self.timing = self.path / "timing.json"
        self.evaluation = self.path / "eval.json"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.best = self.checkpoints / "best.ckpt"
        self.wandb = self.path / "wandb"
        self.tensorboard = self.path / "tensorboard"
        self._lock: int | None = None
        self._yaml = ""

    @classmethod
    def create(cls, config: Config, name: str) -> RunDirectory:
        """Make and hold the directory, with its config.yaml and checkpoints/.

        ``config.run_dir`` if given; else the directory of the run that ``config.resume`` continues; else
        ``runs/<name>-<YYYYmmdd-HHMMSS>[-n]``.

        :raises ConfigError: it holds another run, is in use, or cannot be written
        :raises CheckpointError: ``config.resume`` names nothing to resume
        """
        resumed = run_of(find_checkpoint(config.resume)) if config.resume else None
        given = Path(os.path.expanduser(config.run_dir)) if config.run_dir else resumed
        where = f"run_dir={given}" if given else f"a run directory in {RUNS.resolve()}"
        with writing(where, "choose another run_dir"):
            run = cls(given or _fresh(name))
            run.path.mkdir(parents=True, exist_ok=True)
            run._hold()
            try:
                same = resumed is not None and run.path.resolve() == resumed.resolve()
                if not same:
                    run._refuse_another()
                run._yaml = to_yaml(config)
                run._furnish()
            except BaseException:
                run.release()
                raise
        return run

    def release(self) -> None:
        """Let another process use the directory; the end of the process does the same."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def secure(self) -> None:
        """Make sure, before something is written, that the directory is still there and still this run's.

        One that has vanished is made anew, with a warning, so that what is to come is kept.

        :raises RunError: another run has taken its place
        """
        with keeping_on(self.path):
            try:
                there = os.stat(self.path / LOCK)
            except FileNotFoundError:
                logger.warning(f"{self.path} has vanished while the run was going on; it is made anew")
                self._renew()
                return
            if self._lock is not None and not os.path.samestat(there, os.fstat(self._lock)):
                raise RunError(f"{self.path} belongs to another run by now; this one ends, and writes nothing there.")

    def _renew(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self.release()
        try:
            self._hold()
        except ConfigError as error:
            raise RunError(f"{error.args[0]} This run had vanished from there, and ends.") from None
        self._furnish()

    def _furnish(self) -> None:
        self.checkpoints.mkdir(exist_ok=True)
        for folder in (self.path, self.checkpoints):  # what a run that was killed was writing
            for path in folder.glob(f".*{UNFINISHED}"):
                path.unlink()
        write_text(self.config, self._yaml)

    def _refuse_another(self) -> None:
        held = [name for name in CONTENTS if (self.path / name).exists()]
        only_begun = held == ["config.yaml", "checkpoints"] and not any(self.checkpoints.iterdir())
        if held and not only_begun:  # of a run that ended before it had learned anything nothing is lost
            raise ConfigError(
                f"run_dir={self.path} already holds a run ({held[0]}); choose another directory, "
                f"or continue that run with {typed('resume', self.path)}."
            )

    def _hold(self) -> None:
        lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            locked = try_lock(lock)
        except BlockingIOError:
            owner = os.read(lock, 32).decode(errors="replace").strip()
            os.close(lock)
            raise ConfigError(
                f"run_dir={self.path} is in use by process {owner or 'of another host'}; wait for its end, "
                "or choose another run_dir."
            ) from None
        if not locked:
            os.close(lock)
            return
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        self._lock = lock


def find_checkpoint(path: str | Path, prefer: str = "last") -> Path:
    """The checkpoint file that ``path`` means: the file itself, or the one in a run directory.

    :param prefer: ``last`` to resume, ``best`` to evaluate; the other one if only that is there
    :raises CheckpointError: nothing to load; says what is there and what to give instead
    """
    path = Path(os.path.expanduser(path))
    try:
        return _search(path, prefer)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None


def run_of(checkpoint: str | Path) -> Path | None:
    """The run directory that a checkpoint lies in, None for a copy elsewhere."""
    folder = Path(os.path.abspath(checkpoint)).parent
    run, here = folder.parent, Path.cwd()
    return (run.relative_to(here) if run.is_relative_to(here) else run) if folder.name == "checkpoints" else None


def _fresh(name: str) -> Path:
    """A new directory of its own, also when several runs begin in the same second."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    RUNS.mkdir(parents=True, exist_ok=True)
    for path in (RUNS / (f"{stem}-{n}" if n > 1 else stem) for n in count(1)):
        with suppress(FileExistsError):
            path.mkdir()
            break
    return path


def _search(path: Path, prefer: str) -> Path:
    if path.is_file():
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path} is an empty file; give another checkpoint, or train again.")
        return path
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path} is neither a file nor a folder; give a run directory or a checkpoint file.")
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist.{_near(path)}")
    names = dict.fromkeys((f"{prefer}.ckpt", "last.ckpt", "best.ckpt"))
    for name in names:
        for file in (path / "checkpoints" / name, path / name):
            if file.is_file() and file.stat().st_size > 0:
                return file
    runs = sorted(str(one.parent) for one in path.glob("*/checkpoints") if any(one.glob("*.ckpt")))
    if runs:
        raise CheckpointError(f"{path} holds runs, it is none itself; give one of {', '.join(runs[-5:])}.")
    other = sorted(str(one) for one in (*path.glob("checkpoints/*.ckpt"), *path.glob("*.ckpt")) if one.stat().st_size)
    if other:
        raise CheckpointError(f"{path} has neither last.ckpt nor best.ckpt; give one of {', '.join(other[-5:])}.")
    if any(one.name != LOCK for one in path.iterdir()):
        raise CheckpointError(
            f"{path} has no checkpoint: the run stopped before its first one, or this is no run directory; "
            "give a checkpoint file, or train again."
        )
    raise CheckpointError(f"{path} is an empty directory; give a run directory or a checkpoint file.")


def _near(path: Path) -> str:
    """The names beside it that are most alike."""
    folder = next(one for one in path.parents if one.is_dir())
    wanted = path.relative_to(folder).parts[0]
    near = difflib.get_close_matches(wanted, sorted(one.name for one in folder.iterdir()), 3)
    return f" Did you mean {' or '.join(str(folder / one) for one in near)}?" if near else ""

"""Runs what is missing of a matrix, shows how far it is, and survives cells that fail."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from d2rl.benchmark.cells import LOG, finish, finished, last_words, progress
from d2rl.benchmark.launchers import Job, LocalLauncher
from d2rl.benchmark.matrix import Cell
from d2rl.common.errors import ConfigError, counted
from d2rl.common.files import try_lock, writing

WAIT, REFRESH = 0.1, 2.0  # seconds between two looks at the processes, and at the running cells' metrics


class Runner:
    """Keeps a launcher's slots full until every cell is done or has failed; one that starts from another waits for it.

    Example::

        failed = Runner(LocalLauncher(slots=4), Console()).run(matrix.cells)

    :param launcher: starts cells
    :param console: shows progress and failures
    """

    def __init__(self, launcher: LocalLauncher, console: Console):
        self.launcher, self.console = launcher, console
        self.running: dict[Cell, tuple[Job, TaskID]] = {}
        self.failed: list[Cell] = []

    def run(self, cells: Sequence[Cell]) -> list[Cell]:
        """Run the cells that are not finished.

        :returns: those that failed
        """
        waiting = [cell for cell in cells if not finished(cell)]
        done = len(cells) - len(waiting)
        if done:
            self.console.print(f"finished already: {done} of {counted(len(cells), 'cell')}", markup=False)
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
        columns += [TextColumn("{task.fields[quality]}"), TimeElapsedColumn()]
        try:
            with Progress(*columns, console=self.console, transient=True) as self.bar:
                self.total = self.bar.add_task("cells", total=len(cells), completed=done, quality="")
                self._loop(waiting)
        finally:
            for job, _ in self.running.values():
                job.kill()
        return self.failed

    def _loop(self, waiting: list[Cell]) -> None:
        looked = 0.0
        while waiting or self.running:
            while len(self.running) < self.launcher.slots and (cell := self._next(waiting)):
                self._start(cell)
            for cell, (job, _) in list(self.running.items()):
                if (status := job.poll()) is not None:
                    self._ended(cell, status)
            if time.monotonic() - looked > REFRESH:
                looked = time.monotonic()
                self._refresh()
            time.sleep(WAIT)

    def _next(self, waiting: list[Cell]) -> Cell | None:
        """Take the first cell whose start is there; give up those whose start has failed."""
        failed = {cell.name for cell in self.failed}
        for cell in [cell for cell in waiting if cell.needs in failed]:
            waiting.remove(cell)
            self.failed.append(cell)
            self.bar.advance(self.total)
            text = f"not run: {cell.name}, since {cell.needs}, which it starts from, has failed"
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        unfinished = {cell.name for cell in (*waiting, *self.running)}
        ready = next((cell for cell in waiting if cell.needs not in unfinished), None)
        if ready is not None:
            waiting.remove(ready)
        return ready

    def _start(self, cell: Cell) -> None:
        trainer = cell.config.trainer
        task = self.bar.add_task(f"  {cell.name}", total=trainer.epochs * trainer.updates_per_epoch, quality="")
        self.running[cell] = self.launcher.start(cell), task

    def _ended(self, cell: Cell, status: int) -> None:
        _, task = self.running.pop(cell)
        self.bar.remove_task(task)
        self.bar.advance(self.total)
        if status == 0:
            finish(cell)
            reached = progress(cell)
            quality = f", gap closed {reached[1]:.3f}" if reached else ""
            self.console.print(f"done: {cell.name}{quality}", markup=False, highlight=False)
            return
        self.failed.append(cell)
        self.console.print(
            f"failed with status {status}: {cell.name}, see {cell.folder / LOG}\n{last_words(cell)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def _refresh(self) -> None:
        for cell, (_, task) in self.running.items():
            if reached := progress(cell):
                self.bar.update(task, completed=reached[0], quality=f"gap closed {reached[1]:.3f}")


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Hold the output folder against a second process. :raises ConfigError: it is in use, or cannot be written"""
    with writing(f"out={out}", "choose another folder"):
        out.mkdir(parents=True, exist_ok=True)
        lock = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try_lock(lock)
    except BlockingIOError:
        os.close(lock)
        raise ConfigError(f"out={out} is in use by another process; wait for its end, or give another out.") from None
    try:
        yield
    finally:
        os.close(lock)

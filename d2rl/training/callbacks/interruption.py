"""SaveAndStop: Ctrl-C and SIGTERM end a run with a checkpoint; RunKeeper: what is kept stays whole."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from d2rl.algorithm.agent import D2RL
from d2rl.common.command_line import owns_process
from d2rl.common.distributed import largest
from d2rl.common.errors import Interrupted, RunError, typed
from d2rl.common.files import keeping_on
from d2rl.runs.run_directory import RunDirectory

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it


class SaveAndStop(Callback):
    """On Ctrl-C or SIGTERM the training step is finished, a checkpoint saved, and :class:`Interrupted` raised.

    To come after the callbacks whose state belongs into that checkpoint.

    A second signal raises :class:`Interrupted` at once; a command's process it ends, with status 128 + its number.
    Outside the main thread, where Python takes no signals, it does nothing.

    :param path: of the checkpoint
    """

    def __init__(self, path: Path):
        self.path = path
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, agent: D2RL) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._notice) for number in SIGNALS}

    def on_train_batch_end(self, trainer: L.Trainer, agent: D2RL, outputs: Any, batch: Any, batch_index: int) -> None:
        """Save and end, when asked to; what belongs to the end of an epoch is done before."""
        if not trainer.is_last_batch:
            self._end_if_asked(trainer, agent)

    def on_train_epoch_start(self, trainer: L.Trainer, agent: D2RL) -> None:
        """The same after the last step of an epoch."""
        self._end_if_asked(trainer, agent)

    def on_train_end(self, trainer: L.Trainer, agent: D2RL) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, agent: D2RL, exception: BaseException) -> None:
        self._restore()

    def end_if_asked(self, outcome: str) -> None:
        """:raises Interrupted: a signal has come"""
        if self.received is not None:
            raise Interrupted(self.received, f"interrupted by {SIGNALS[signal.Signals(self.received)]}: {outcome}")

    def _end_if_asked(self, trainer: L.Trainer, agent: D2RL) -> None:
        self.received = largest(self.received or 0, agent.device) or None  # a signal may reach one process alone
        if self.received is None:
            return
        with keeping_on(self.path) as attempt:
            trainer.save_checkpoint(self.path, weights_only=False)
        if attempt.failed:
            self.end_if_asked(f"could not be saved; {self.path} is of before")
        self.end_if_asked(f"saved at update {agent.updates}; go on with {typed('resume', self.path)}")

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and not owns_process():
            name = SIGNALS[signal.Signals(number)]
            raise Interrupted(number, f"interrupted by {name} once more: ended at once, without a checkpoint of now")
        if self.received is not None:
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), SHOW_CURSOR.encode())
            os._exit(128 + number)
        self.received = number
        os.write(2, f"\n{SIGNALS[signal.Signals(number)]}: saves and ends; once more ends at once\n".encode())

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class RunKeeper(Callback):
    """Before anything is written, the directory is this run's; no checkpoint is ahead of metrics.csv.

    :param run: where the run writes
    """

    def __init__(self, run: RunDirectory):
        self.run = run

    def on_train_epoch_end(self, trainer: L.Trainer, agent: D2RL) -> None:
        """Look before the files are brought up to date."""
        self.run.secure()

    def on_save_checkpoint(self, trainer: L.Trainer, agent: D2RL, checkpoint: dict[str, Any]) -> None:
        """A run that goes on from this checkpoint shall find the metrics of before."""
        self.run.secure()
        for one in trainer.loggers:
            one.save()

    def on_exception(self, trainer: L.Trainer, agent: D2RL, exception: BaseException) -> None:
        """A run that has lost its place shall write nothing there, not even last metrics."""
        if isinstance(exception, RunError):
            trainer.loggers = []


class KeptCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that a full disk does not end: it says so, forgets the attempt and tries again later.

    ``failed`` tells whether the latest attempt did.
    """

    failed = False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save when due; the best of what was never evaluated is unknown."""
        if self.monitor is not None and self.monitor not in trainer.callback_metrics:
            return
        before = self.state_dict()
        with keeping_on(f"{self.dirpath}/{self.filename}.ckpt") as attempt:
            super().on_train_epoch_end(trainer, pl_module)
        self.failed = attempt.failed
        if attempt.failed:
            self.load_state_dict(before)

"""TensorBoard event files, beside metrics.csv."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger


class EventFiles(Logger):
    """The run's metrics as TensorBoard scalars; see them with ``tensorboard --logdir runs``.

    Needs the extra: d2rl[tensorboard]. Each start of a run has a file of its own, which is opened with the first
    value; TensorBoard then leaves out what a run that broke off had written from that step on.

    :param folder: of the files
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self.failed = False
        self._writer: Any = None

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add values of one step."""
        if self.failed:
            return
        try:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter  # an extra, and slow to import

                self._writer = SummaryWriter(self.folder, purge_step=step)
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)
        except OSError as error:
            self._give_up(error)

    def save(self) -> None:
        """Bring the file up to date."""
        try:
            if self._writer is not None and not self.failed:
                self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def finalize(self, status: str) -> None:
        """Write what is left when training ends, however it ends."""
        self.save()

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Left to config.yaml."""

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "tensorboard"

    @property
    def version(self) -> str:
        """Always the same: the run directory tells runs apart."""
        return ""

    def _give_up(self, error: OSError) -> None:
        self.failed = True
        warnings.warn(
            f"{self.folder} cannot be written: {error.strerror or error}; training goes on without event files",
            stacklevel=3,
        )

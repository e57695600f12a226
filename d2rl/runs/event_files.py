"""TensorBoard event files, beside metrics.csv."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from d2rl.common.notices import notice


class EventFiles(TensorBoardLogger):
    """The run's metrics as TensorBoard scalars; see them with ``tensorboard --logdir runs``.

    Lightning's logger, but a place that cannot be written ends the event files and not the run. Needs the extra:
    d2rl[tensorboard].

    :param folder: of the files
    :param resumed: step that a resumed run goes on from; TensorBoard leaves out what was written of later ones
    """

    def __init__(self, folder: Path, resumed: int | None = None):
        super().__init__(folder, name="", version="", purge_step=None if resumed is None else resumed + 1)
        self.failed = False

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add values of one step."""
        with self._survived():
            for name, value in () if self.failed else metrics.items():
                self.experiment.add_scalar(name, value, step)

    def save(self) -> None:
        """Bring the file up to date."""
        with self._survived():
            if not self.failed:
                self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Write what is left when training ends, however it ends."""
        self.save()

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Left to config.yaml."""

    @contextmanager
    def _survived(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failed = True
            reason = error.strerror or error
            notice(f"{self.root_dir} cannot be written: {reason}; training goes on without event files")

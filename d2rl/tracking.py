"""Loggers: metrics.csv always, Weights & Biases as asked; x-axis environment steps."""

from __future__ import annotations

import csv
import io
import os
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_SILENT", "true")  # read when wandb is imported

from lightning.pytorch.loggers import Logger, WandbLogger

from d2rl.config import Config
from d2rl.run_directory import RunDirectory, write_text

STEP = "environment_steps"
GROUPS = ("charts", "losses", "eval", "time", "senpnn", "renpnn")


class CsvLogger(Logger):
    """One row for each logged step in one file, whatever columns come up; a resumed run goes on in it.

    :param path: of the file
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = Path(path)
        self.rows: list[dict[str, Any]] = []

    def resume(self, step: int) -> None:
        """Keep the rows up to ``step``, drop what a run that broke off wrote after its checkpoint."""
        if self.path.exists():
            with open(self.path, newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row[STEP]) <= step]

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add values of one step; values of the same step share a row."""
        if not self.rows or int(self.rows[-1][STEP]) != step:
            self.rows.append({STEP: step})
        self.rows[-1].update(metrics)

    def save(self) -> None:
        """Write the file in one piece."""
        columns = dict.fromkeys(name for row in self.rows for name in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())

    def finalize(self, status: str) -> None:
        """Write what is left when training ends, however it ends."""
        if self.rows:
            self.save()

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Left to config.yaml."""

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """Always the same: the run directory tells runs apart."""
        return ""


def make_loggers(config: Config, run: RunDirectory, values: dict[str, Any], run_id: str | None = None) -> list[Logger]:
    """metrics.csv, and W&B unless disabled.

    :param values: the resolved configuration
    :param run_id: W&B run to continue
    """
    loggers: list[Logger] = [CsvLogger(run.metrics)]
    if config.logger.mode != "disabled":
        logger = WandbLogger(
            project=config.logger.project,
            name=config.logger.name or run.path.name,
            save_dir=str(run.path),
            id=run_id,
            resume="allow" if run_id else None,
            offline=config.logger.mode == "offline",
            config=values,
        )
        logger.experiment.define_metric(STEP)
        for group in GROUPS:
            logger.experiment.define_metric(f"{group}/*", step_metric=STEP)
        loggers.append(logger)
    return loggers


def wandb_id(loggers: list[Logger]) -> str | None:
    """Id of the W&B run among the loggers."""
    return next((logger.version for logger in loggers if isinstance(logger, WandbLogger)), None)


def alert(loggers: list[Logger], title: str, text: str) -> None:
    """Tell the person, in the terminal and on the dashboard, that a failure signature has shown."""
    warnings.warn(f"{title}: {text}", stacklevel=3)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.alert(title=title, text=text, level="WARN")


def log(loggers: list[Logger], metrics: dict[str, float], environment_steps: int) -> None:
    """Send metrics to every logger, with environment steps as the x-axis."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.log({**metrics, STEP: environment_steps})
        else:
            logger.log_metrics(metrics, environment_steps)

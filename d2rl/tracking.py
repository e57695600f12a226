"""Loggers: metrics.csv always, Weights & Biases as asked; x-axis environment steps."""

from __future__ import annotations

import os
import warnings
from typing import Any

os.environ.setdefault("WANDB_SILENT", "true")  # read when wandb is imported

from lightning.pytorch.loggers import Logger, WandbLogger

from d2rl.config import Config
from d2rl.csv_logger import STEP, CsvLogger
from d2rl.run_directory import RunDirectory

GROUPS = ("charts", "losses", "eval", "time", "senpnn", "renpnn")


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

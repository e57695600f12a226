"""Loggers: metrics.csv always, Weights & Biases as asked; x-axis environment steps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from d2rl.common.errors import ConfigError, first_line
from d2rl.common.host import surroundings_kept
from d2rl.common.notices import notice
from d2rl.config.defaults import Config
from d2rl.runs.csv_logger import STEP, CsvLogger
from d2rl.runs.event_files import EventFiles
from d2rl.runs.run_directory import RunDirectory

PATIENCE = 30.0  # seconds for W&B to answer
GROUPS = ("charts", "losses", "eval", "time", "senpnn", "renpnn")


def make_loggers(
    config: Config,
    run: RunDirectory,
    values: dict[str, Any],
    run_id: str | None = None,
    resumed: int | None = None,
) -> list[Logger]:
    """metrics.csv, W&B unless disabled (offline where online cannot be had), and event files if asked for.

    :param values: the resolved configuration
    :param run_id: W&B run to continue
    :param resumed: environment steps from which a resumed run goes on; what was logged of later ones is dropped
    :raises ConfigError: W&B refuses the account, or is not installed
    """
    table = CsvLogger(run.metrics)
    if resumed is not None:
        table.resume(resumed)
    loggers: list[Logger] = [table]
    if config.logger.mode != "disabled":
        logger = _wandb_logger(config, run, values, run_id)
        logger.experiment.define_metric(STEP)
        for group in GROUPS:
            logger.experiment.define_metric(f"{group}/*", step_metric=STEP)
        loggers.append(logger)
    if config.logger.tensorboard:
        loggers.append(EventFiles(run.tensorboard, resumed))
    return loggers


def _wandb_logger(config: Config, run: RunDirectory, values: dict[str, Any], run_id: str | None) -> WandbLogger:
    try:  # here, so that a run without dashboards needs no W&B
        import wandb
        from wandb.errors import AuthenticationError, CommError
        from wandb.sdk import wandb_setup
    except ImportError:
        raise ConfigError(
            f"logger.mode={config.logger.mode} needs W&B, which is not installed: pip install wandb, or set "
            "logger.mode=disabled."
        ) from None

    def make(offline: bool) -> WandbLogger:
        with surroundings_kept():
            _ = wandb_setup.singleton().settings  # read from the environment as the caller has it
            if offline:
                os.environ["WANDB_ERROR_REPORTING"] = "false"  # else W&B's telemetry calls home
            experiment = wandb.init(
                project=config.logger.project,
                name=config.logger.name or run.path.name,
                dir=str(run.path),
                id=run_id,
                resume="allow" if run_id else None,
                mode="offline" if offline else "online",
                config={**values, "run_dir": str(run.path)},
                reinit="create_new",  # a run that the caller has open is not this one
                settings=wandb.Settings(init_timeout=PATIENCE, silent=True),
            )
        return WandbLogger(experiment=experiment, save_dir=str(run.path))

    try:
        return make(config.logger.mode == "offline")
    except AuthenticationError as error:
        raise ConfigError(f"logger.mode=online, but W&B refuses the account: {first_line(error)}") from None
    except CommError as error:
        notice(f"W&B cannot be reached ({first_line(error)}); the dashboards are kept offline")
        return make(offline=True)


def wandb_id(loggers: list[Logger]) -> str | None:
    """Id of the W&B run among the loggers."""
    return next((logger.version for logger in loggers if isinstance(logger, WandbLogger)), None)


def alert(loggers: list[Logger], title: str, text: str) -> None:
    """Tell the person, in the terminal and on the dashboard, that a failure signature has shown."""
    notice(f"{title}: {text}")
    for logger in _dashboards(loggers):
        with _survived(loggers, logger):
            logger.experiment.alert(title=title, text=text, level="WARN")


def log(loggers: list[Logger], metrics: dict[str, float], environment_steps: int) -> None:
    """Send metrics to every logger, with environment steps as the x-axis.

    They are W&B's own steps, too: what a resumed run logs again takes the place of what was there.
    """
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            logger.log_metrics(metrics, environment_steps)
    for logger in _dashboards(loggers):
        with _survived(loggers, logger):
            logger.experiment.log({**metrics, STEP: environment_steps}, step=environment_steps)


@contextmanager
def ending(loggers: list[Logger]) -> Iterator[None]:
    """On leaving, however that happens, end the W&B run among ``loggers``: the next training has one of its own."""
    failed = True
    try:
        yield
        failed = False
    finally:
        for logger in _dashboards(loggers):
            with _survived(loggers, logger):
                logger.experiment.finish(exit_code=int(failed))


def _dashboards(loggers: list[Logger]) -> list[WandbLogger]:
    return [logger for logger in loggers if isinstance(logger, WandbLogger)]


@contextmanager
def _survived(loggers: list[Logger], logger: WandbLogger) -> Iterator[None]:
    """W&B lives in a process of its own; whatever happens to that, training goes on without."""
    try:
        yield
    except Exception as error:
        loggers.remove(logger)
        with suppress(Exception, SystemExit):
            import wandb

            wandb.teardown()  # what it would do at exit cannot work any more
        notice(f"W&B has ended ({first_line(error)}); metrics.csv goes on without it")

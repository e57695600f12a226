"""Checkpoints of an online run as W&B artifacts."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from d2rl.common.errors import first_line
from d2rl.common.notices import notice
from d2rl.runs.run_directory import RunDirectory
from d2rl.training.checkpoint import load_checkpoint

KEPT = ("updates", "environment_steps", "stages")  # of what a checkpoint says of itself


def upload_checkpoints(loggers: list[Logger], run: RunDirectory) -> None:
    """Send best.ckpt and last.ckpt to where the run is online; nothing happens in an offline run.

    They become versions of one artifact, ``checkpoint-<run id>``, under the aliases ``best`` and ``last``. A failure
    is a notice: both files are in the run directory.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger) and not logger.experiment.offline:
            try:
                log_artifacts(logger.experiment, run)
            except Exception as error:
                notice(f"W&B has not taken the checkpoints ({first_line(error)}); they are in {run.checkpoints}")


def log_artifacts(experiment: Any, run: RunDirectory) -> None:
    """Hand the checkpoints that there are to a W&B run, last.ckpt as the latest version."""
    import wandb  # here only: a run without dashboards needs none

    for path in (run.best, run.last):
        if path.exists():
            about = load_checkpoint(path)["d2rl"]
            artifact = wandb.Artifact(
                f"checkpoint-{experiment.id}", type="model", metadata={key: about[key] for key in KEPT}
            )
            artifact.add_file(str(path), name=path.name)
            experiment.log_artifact(artifact, aliases=[path.stem])

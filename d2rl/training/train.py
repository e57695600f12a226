"""From a configuration to a trained agent in a run directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.decisions import decision_rule
from d2rl.common.distributed import launch_rank, losses_told, plugins, strategy
from d2rl.common.errors import CheckpointError, RunError, counted, typed
from d2rl.common.host import left_as_found, training_device
from d2rl.config.defaults import Config, TrainerConfig
from d2rl.config.load import processes
from d2rl.config.schema import leaves
from d2rl.evaluation.episodes import EpisodeEvaluation
from d2rl.evaluation.evaluate import Evaluation, make_evaluation
from d2rl.runs.run_directory import RunDirectory
from d2rl.runs.tracking import ending, make_loggers, wandb_id
from d2rl.training.artifacts import upload_checkpoints
from d2rl.training.callbacks import (
    ChiSchedule,
    GpuTimeProfiler,
    KeptCheckpoint,
    MixedPrecision,
    PolicyEvaluation,
    RewardGuard,
    RunKeeper,
    SaveAndStop,
    StagedIntegration,
    StatePlausibility,
    TrainingProgress,
)
from d2rl.training.checkpoint import CheckpointFiles, load_checkpoint, open_checkpoint
from d2rl.training.warm_start import begin_from, load_weights

SHAPES = (  # what the shapes and the meaning of weights follow from, beside the cell
    *("scenario.head", "network.kind", "network.width", "network.layers", "network.critic"),
    "network.standardise",
    *("action.steps", "reward.steps", "state.steps", "state.width"),
)


@dataclass
class TrainingResult:
    """What a finished run leaves.

    :param agent: with its last weights
    :param evaluation: with the references' rates, in the first process
    :param profiler: seconds spent
    :param run: the run's files
    """

    agent: D2RL
    evaluation: Evaluation | EpisodeEvaluation | None
    profiler: GpuTimeProfiler
    run: RunDirectory


def train(
    config: Config, run: RunDirectory, checkpoint: str | None = None, callbacks: Sequence[Callback] = ()
) -> TrainingResult:
    """Train one agent, in one process or, with ``trainer.devices`` and ``trainer.nodes``, as one of several.

    :param run: where the first process writes, released at the end; the others write nothing
    :param checkpoint: file to continue from, exactly
    :param callbacks: beside those of every training
    """
    loggers: list[Logger] = []
    try:
        with left_as_found(config.trainer.threads), ending(loggers), losses_told(config.trainer, run.last):
            return _train(config, run, checkpoint, loggers, callbacks)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning takes Ctrl-C for the end of the process
            raise KeyboardInterrupt from None
        raise
    finally:
        run.release()


def _train(
    config: Config, run: RunDirectory, checkpoint: str | None, loggers: list[Logger], others: Sequence[Callback]
) -> TrainingResult:
    """The same; what it logs to is added to ``loggers``."""
    trainer_config = config.trainer
    agent = D2RL(config)
    wandb, steps = _begun(agent, checkpoint) if checkpoint else (None, None)
    if config.initial and not checkpoint:
        start_from(agent, config.initial)
    first = launch_rank(trainer_config) == 0
    loggers += make_loggers(config, run, asdict(config), wandb, steps) if first else []
    agent.wandb_id = wandb_id(loggers)
    profiler = GpuTimeProfiler(run.timing if first else None)
    device = training_device(trainer_config)
    evaluation = make_evaluation(config, agent.problem, device) if first else None
    stop = SaveAndStop(run.last)
    last = _checkpoints(run, trainer_config, "last")
    callbacks: list[Callback] = [
        *([RunKeeper(run)] if first else []),
        StagedIntegration(config.stages, run.checkpoints),
        ChiSchedule(config.chi),
        RewardGuard(config.reward.guard),
        MixedPrecision(trainer_config.precision),
        profiler,
        StatePlausibility(trainer_config.checkpoint_every),
        PolicyEvaluation(evaluation, decision_rule(config), config.evaluation.every),
        _checkpoints(run, trainer_config, "best", monitor="objective", mode="max"),
        last,
        *([TrainingProgress()] if trainer_config.progress and first else []),
        *others,
        stop,
    ]
    batches = range(trainer_config.updates_per_epoch // trainer_config.updates_per_step)
    trainer = L.Trainer(
        accelerator=device.type,
        strategy=strategy(trainer_config),
        devices=trainer_config.devices,
        num_nodes=trainer_config.nodes,
        use_distributed_sampler=False,  # every process takes all steps, each with its share of the cells
        max_epochs=trainer_config.epochs,
        logger=loggers,
        callbacks=callbacks,
        plugins=[CheckpointFiles(), *plugins(trainer_config)],
        default_root_dir=run.path,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    trainer.loggers = loggers  # no copy: what ends on the way is ended only once
    trainer.fit(agent, DataLoader(batches, batch_size=None), ckpt_path=checkpoint, weights_only=True)
    last_epoch_is_due = trainer_config.epochs % trainer_config.checkpoint_every == 0
    if last.failed or not last_epoch_is_due:
        _keep_last(trainer, run)
    profiler.write()
    stop.end_if_asked(f"training is complete and saved; {typed('resume', run.path)} evaluates it")
    agent.to(device)  # the Trainer leaves it on the CPU
    upload_checkpoints(loggers, run)
    return TrainingResult(agent, evaluation, profiler, run)


def _begun(agent: D2RL, checkpoint: str) -> tuple[str | None, int]:
    """W&B run and environment steps of the checkpoint to continue, once its weights are known to fit."""
    content = load_checkpoint(checkpoint)
    _check_processes(len(content["d2rl"]["ranks"]), agent.config.trainer)
    load_weights(agent, content, checkpoint)
    return content["d2rl"]["wandb"], content["d2rl"]["environment_steps"]


def start_from(agent: D2RL, initial: str) -> None:
    """Give a new agent the weights of ``initial``, a checkpoint or a run directory, as ``d2rl-eval`` finds them.

    :raises CheckpointError: it cannot be read, or does not fit the agent's configuration
    """
    path, content, saved = open_checkpoint(initial, "best", "initial")
    before, now = leaves(saved), leaves(agent.config)
    for key in SHAPES:
        if key in now and key in before and now[key].value != before[key].value:
            raise CheckpointError(
                f"initial={initial}: its weights were made with {key}={before[key].value} and cannot start a run with "
                f"{now[key].value}; set {key}={before[key].value}."
            )
    begin_from(agent, content, f"initial={path}")


def _keep_last(trainer: L.Trainer, run: RunDirectory) -> None:
    """The end of the training must be on the disk; here a failure is one."""
    try:
        trainer.save_checkpoint(run.last, weights_only=False)
    except OSError as error:
        raise RunError(
            f"training is complete, but {run.last} cannot be written: {error.strerror or error}; "
            f"what is there is from before: make room, then {typed('resume', run.path)}."
        ) from None


def _checkpoints(run: RunDirectory, config: TrainerConfig, name: str, **options: Any) -> KeptCheckpoint:
    """Keeps ``name``.ckpt up to date, the best of all epochs that are looked at or simply the last."""
    every = min(config.checkpoint_every, config.epochs)
    return KeptCheckpoint(
        run.checkpoints,
        filename=name,
        every_n_epochs=every,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
        **options,
    )


def _check_processes(before: int, config: TrainerConfig) -> None:
    if before != processes(config):
        raise CheckpointError(
            f"the run was on {counted(before, 'process', 'processes')}, each with its part of the world, and goes on "
            f"exactly on as many only; trainer.devices x trainer.nodes is {processes(config)}."
        )

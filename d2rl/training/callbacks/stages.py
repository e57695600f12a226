"""StagedIntegration: brings the explorers in one after the other."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from d2rl.algorithm.agent import D2RL
from d2rl.common.files import keeping_on
from d2rl.config.defaults import STAGES, StagesConfig
from d2rl.runs.tracking import log

logger = logging.getLogger(__name__)


class StagedIntegration(Callback):
    """Switches on action, reward and state exploration, in this order.

    A stage begins at its epoch, or, with ``plateau``, as soon as that many evaluations in a row have not
    beaten the best one before them; one that the agent's initial checkpoint brought begins with the run. Every
    change is logged and, given a directory, checkpointed.

    Example::

        Trainer(callbacks=[StagedIntegration(StagesConfig(action=0, reward=2, state=5))]).fit(agent, steps)

    :param config: first epoch of each stage, null for never
    :param directory: where ``stage-<name>.ckpt`` goes; None keeps no checkpoint of a change
    """

    def __init__(self, config: StagesConfig, directory: Path | None = None):
        self.config, self.directory = config, directory
        self.planned = {name: getattr(config, name) for name in STAGES if getattr(config, name) is not None}
        self.best = float("-inf")
        self.idle = 0

    def on_train_epoch_start(self, trainer: L.Trainer, agent: D2RL) -> None:
        """Begin what is due."""
        # Lightning clears its count of batches only after this hook; a checkpoint of now must not carry the old one
        trainer.fit_loop.epoch_loop.batch_progress.reset_on_run()
        for name, epoch in self.planned.items():
            if not agent.stages[name] and (trainer.current_epoch >= epoch or agent.initial_stages[name]):
                self._begin(name, trainer, agent)

    def evaluated(self, sum_rate: float, trainer: L.Trainer, agent: D2RL) -> None:
        """Told by the evaluation; begins the next stage when the policy has levelled off."""
        if self.config.plateau == 0:
            return
        self.idle = 0 if sum_rate > self.best else self.idle + 1
        self.best = max(self.best, sum_rate)
        waiting = [name for name in self.planned if not agent.stages[name]]
        if waiting and self.idle >= self.config.plateau:
            self._begin(waiting[0], trainer, agent)

    def state_dict(self) -> dict[str, Any]:
        """What the plateau rule remembers."""
        return {"best": self.best, "idle": self.idle}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.best, self.idle = saved["best"], saved["idle"]

    def _begin(self, name: str, trainer: L.Trainer, agent: D2RL) -> None:
        agent.begin_stage(name)
        self.idle = 0
        logger.info(f"stage {name}: begins at epoch {trainer.current_epoch}, update {agent.updates}")
        log(
            trainer.loggers,
            {f"charts/stage_{stage}": float(on) for stage, on in agent.stages.items()},
            agent.environment_steps,
        )
        if self.directory is not None and agent.updates:
            path = self.directory / f"stage-{name}.ckpt"
            with keeping_on(path):
                trainer.save_checkpoint(path, weights_only=False)

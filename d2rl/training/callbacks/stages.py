"""StagedIntegration: brings the explorers in one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.diagnostics import reward_lead, unseen_loss
from d2rl.common.distributed import mean
from d2rl.common.files import keeping_on
from d2rl.config.defaults import AUTO, STAGES, StagesConfig, first_epoch
from d2rl.runs.tracking import log

logger = logging.getLogger(__name__)


# what predicts, before a stage begins, whether it pays, which it does above 0; and that in words
FORECASTS: dict[str, tuple[Callable[[D2RL], Tensor], str]] = {
    "reward": (reward_lead, "RENPNN's rank correlation with rewards, less the critic's,"),
    "state": (unseen_loss, "the share of its utility that the policy loses on mixed states"),
}


class StagedIntegration(Callback):
    """Switches on action, reward and state exploration, in this order.

    A stage begins at its epoch, or, with ``plateau``, as soon as that many evaluations in a row have not
    beaten the best one before them; one that the agent's initial checkpoint brought begins with the run. With ``auto``
    it begins only if its number among ``FORECASTS`` is above 0, and is left out for good otherwise. Every change is
    logged and, given a directory, checkpointed.

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
            due = agent.decided.get(name, False) if epoch == AUTO else trainer.current_epoch >= epoch
            if not agent.stages[name] and (due or agent.initial_stages[name]):
                self._begin(name, trainer, agent)

    def on_train_epoch_end(self, trainer: L.Trainer, agent: D2RL) -> None:
        """Decide what may begin with the next epoch; at its start a resumed replay would have to wait for a slot."""
        for name in self.planned:
            if self._undecided(name, agent) and trainer.current_epoch + 1 >= first_epoch(agent.config, name):
                self._decide(name, trainer, agent)

    def evaluated(self, sum_rate: float, trainer: L.Trainer, agent: D2RL) -> None:
        """Told by the evaluation; begins the next stage when the policy has levelled off."""
        if self.config.plateau == 0:
            return
        self.idle = 0 if sum_rate > self.best else self.idle + 1
        self.best = max(self.best, sum_rate)
        waiting = [name for name in self.planned if not (agent.stages[name] or agent.rejects(name))]
        if waiting and self.idle >= self.config.plateau:
            if self._undecided(waiting[0], agent):
                self._decide(waiting[0], trainer, agent)
            if not agent.rejects(waiting[0]):
                self._begin(waiting[0], trainer, agent)

    def state_dict(self) -> dict[str, Any]:
        """What the plateau rule remembers."""
        return {"best": self.best, "idle": self.idle}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.best, self.idle = saved["best"], saved["idle"]

    def _undecided(self, name: str, agent: D2RL) -> bool:
        return self.planned[name] == AUTO and not agent.stages[name] and name not in agent.decided

    def _decide(self, name: str, trainer: L.Trainer, agent: D2RL) -> None:
        forecast, meaning = FORECASTS[name]
        number = mean(float(forecast(agent)), agent.device)
        agent.decided[name] = number > 0
        self.idle = 0
        verdict = "begins it" if agent.decided[name] else "leaves it out"
        logger.info(f"stage {name}: auto {verdict} after update {agent.updates}: {meaning} is {number:.3f}")
        log(trainer.loggers, {f"charts/forecast_{name}": number}, agent.environment_steps)

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

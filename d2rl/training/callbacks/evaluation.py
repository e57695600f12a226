"""PolicyEvaluation: the policy beside the references, on the frozen drops."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from d2rl.algorithm.agent import D2RL, SATURATED
from d2rl.algorithm.decisions import DecisionRule
from d2rl.common.distributed import means
from d2rl.evaluation.episodes import EpisodeEvaluation
from d2rl.evaluation.evaluate import Evaluation, policy_of
from d2rl.runs.tracking import alert, log
from d2rl.training.callbacks.gpu_time import GpuTimeProfiler
from d2rl.training.callbacks.stages import StagedIntegration

MOSTLY = 0.5  # share of saturated actions that is told at the end of training


class PolicyEvaluation(Callback):
    """Scores the policy every few training steps, logs it, and tells the callbacks that wait for it.

    A policy that came from a checkpoint is scored before its first update, too: it may be good enough as it is.

    :param evaluation: the frozen set with its references; None in a process that is not the first of several
    :param rule: how a decision is made
    :param every: training steps between two evaluations
    """

    def __init__(
        self, evaluation: Evaluation | EpisodeEvaluation | None, rule: DecisionRule | None = None, every: int = 1
    ):
        self.evaluation, self.rule, self.every = evaluation, rule or DecisionRule(), every
        self.latest: dict[str, float] = {}
        self.saturated = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, agent: D2RL) -> None:
        """Evaluate what a new run started from; now, since stages that begin with the run have begun."""
        if self.latest or agent.config.initial is None:
            return
        metrics = self._evaluated(trainer, agent)
        log(trainer.loggers, {"charts/updates": 0.0, "time/total": 0.0, **metrics}, agent.environment_steps)
        self._tell(trainer, agent)

    def on_train_batch_end(self, trainer: L.Trainer, agent: D2RL, outputs: Any, batch: Any, batch_index: int) -> None:
        """Evaluate when due, and log what the agent has gathered since."""
        metrics = means(agent.means.collect(), agent.device)
        self.saturated = metrics.get("charts/saturated_actions", 0.0)
        steps = agent.updates // agent.config.trainer.updates_per_step
        if steps % self.every == 0:
            metrics.update(self._evaluated(trainer, agent))
        metrics["charts/exploration_noise"] = agent.noise_deviation()
        metrics["charts/updates"] = float(agent.updates)
        log(trainer.loggers, metrics, agent.environment_steps)
        if self.latest:
            agent.log("objective", self.latest[agent.objective], logger=False)
        if steps % self.every == 0:
            self._tell(trainer, agent)

    def _tell(self, trainer: L.Trainer, agent: D2RL) -> None:
        """Last of all, since the beginning of a stage saves a checkpoint."""
        for callback in trainer.callbacks:
            if isinstance(callback, GpuTimeProfiler) and "gap_closed" in self.latest:
                callback.evaluated(self.latest["gap_closed"])
            if isinstance(callback, StagedIntegration):
                callback.evaluated(self.latest[agent.objective], trainer, agent)

    def _evaluated(self, trainer: L.Trainer, agent: D2RL) -> dict[str, float]:
        """What the first process finds, for all of them, under the names it is logged by."""
        own = self.evaluation.judge(policy_of(agent, self.rule)) if self.evaluation is not None else {}
        self.latest = trainer.strategy.broadcast(own)
        return {f"eval/{name}": value for name, value in self.latest.items()}

    def on_train_epoch_end(self, trainer: L.Trainer, agent: D2RL) -> None:
        """Bring the files up to date."""
        for logger in trainer.loggers:
            logger.save()

    def on_train_end(self, trainer: L.Trainer, agent: D2RL) -> None:
        """Tell of a policy whose actions stand at the ends of their range."""
        if self.saturated > MOSTLY:
            alert(
                trainer.loggers,
                "saturated actions",
                f"{self.saturated:.0%} of the policy's numbers lie beyond {SATURATED}, where tanh is flat and learning "
                f"slow; more than ddpg.saturation_penalty={agent.config.ddpg.saturation_penalty:g} keeps them away.",
            )

    def state_dict(self) -> dict[str, Any]:
        """The latest scores, by which the best checkpoint is chosen."""
        return {"latest": dict(self.latest)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.latest = saved["latest"]

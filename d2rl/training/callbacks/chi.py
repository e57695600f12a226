"""ChiSchedule: how often SENPNN replaces a state."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.diagnostics import state_explorer_loss, trained_state_loss
from d2rl.common.distributed import mean
from d2rl.common.notices import notice
from d2rl.config.defaults import ChiConfig
from d2rl.runs.tracking import alert, log

SMOOTHING = 0.8  # of SENPNN's losses from one training step to the next
DIVERGENCE = 3.0  # times the critic's best smoothed loss
SCARCE = 1.1  # held-out loss over that of trained states; 0.9 to 1.0 was seen where states never end, 1.2 to 2 of 20


class ChiSchedule(Callback):
    """Moves chi, the probability that a state is replaced by a synthetic one, once the state stage is on.

    ``fixed``: chi = M. ``threshold`` (the paper's): chi starts at 0, and each update at which SENPNN's
    smoothed held-out loss is below T moves it by eta, up to M. ``adaptive``: as threshold, but down by eta
    instead of up unless SENPNN's held-out loss is above that of the states that it trains on. Then these are few, and
    the policy would learn them by heart, too; else there is nothing to add to them. Whatever the policy, chi halves,
    and an alert is logged, when the critic's loss diverges after states were replaced.

    Example::

        Trainer(callbacks=[ChiSchedule(ChiConfig(policy="threshold", eta=0.01, maximum=0.5))])

    :param config: policy, eta, M, T
    """

    def __init__(self, config: ChiConfig):
        self.config = config
        self.loss: float | None = None
        self.critic: float | None = None
        self.best_critic = float("inf")
        self.trained: float | None = None
        self.alerts = 0

    def on_fit_start(self, trainer: L.Trainer, agent: D2RL) -> None:
        """Warn of a threshold that white data can never pass."""
        planned = agent.config.stages.state is not None and self.config.policy != "fixed"
        explorer: Any = agent.senpnn
        if planned and self.config.threshold <= explorer.floor:
            notice(
                f"chi.threshold={self.config.threshold:g} (T) is not above the floor {explorer.floor:.3f} of SENPNN's "
                f"loss at P={explorer.schedule.steps}: on white channels chi will stay 0"
            )

    def on_train_batch_end(self, trainer: L.Trainer, agent: D2RL, outputs: Any, batch: Any, batch_index: int) -> None:
        """Move chi by one training step's worth of updates."""
        if not agent.stages["state"]:
            return
        self.loss = smoothed(self.loss, mean(float(state_explorer_loss(agent)), agent.device))
        if self.config.policy == "adaptive":
            trained = mean(float(trained_state_loss(agent)), agent.device)
            self.trained = smoothed(self.trained, trained)
        step = self.config.eta * agent.config.trainer.updates_per_step
        agent.chi = self._moved(agent, self.loss, step)
        self._guard(trainer, agent)
        metrics = {"charts/chi": agent.chi, "senpnn/held_out_loss": self.loss}
        if self.trained is not None:
            metrics["senpnn/trained_loss"] = self.trained
        log(trainer.loggers, metrics, agent.environment_steps)

    def _moved(self, agent: D2RL, loss: float, step: float) -> float:
        if self.config.policy == "fixed":
            return self.config.maximum if self.alerts == 0 else agent.chi
        if loss >= self.config.threshold:
            return agent.chi
        if self.trained is not None and loss < SCARCE * self.trained:
            return max(0.0, agent.chi - step)
        return min(self.config.maximum, agent.chi + step)

    def _guard(self, trainer: L.Trainer, agent: D2RL) -> None:
        """The paper's failure signature "early divergence": chi too high before SENPNN has converged."""
        loss = agent.means.current("losses/critic")
        if loss is None:
            return
        loss = mean(loss, agent.device)
        finite = math.isfinite(loss)
        if finite:
            self.critic = smoothed(self.critic, loss)
            self.best_critic = min(self.best_critic, self.critic)
        if agent.chi > 0 and not (finite and self.critic is not None and self.critic <= DIVERGENCE * self.best_critic):
            self.alerts += 1
            agent.chi /= 2
            self.best_critic = float("inf") if self.critic is None else self.critic
            reached = self.critic if finite else loss
            alert(
                trainer.loggers,
                "early divergence",
                f"the critic's loss rose to {reached:.3g} while states were replaced; chi backs off to {agent.chi:.3g}",
            )
            log(trainer.loggers, {"charts/alert_early_divergence": float(self.alerts)}, agent.environment_steps)

    def state_dict(self) -> dict[str, Any]:
        """What the schedule remembers."""
        names = ("loss", "critic", "best_critic", "trained", "alerts")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        for name, value in saved.items():
            setattr(self, name, value)


def smoothed(old: float | None, new: float) -> float:
    """The running mean after a new value; the first stands for itself."""
    return new if old is None else SMOOTHING * old + (1 - SMOOTHING) * new

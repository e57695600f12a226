"""RewardGuard: falls back to measured rewards when generated ones mislead."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.diagnostics import goodhart_gap
from d2rl.common.distributed import mean
from d2rl.problems.base import Measurable
from d2rl.runs.tracking import alert, log

SMOOTHING = 0.9  # of the rank correlation from one training step to the next


class RewardGuard(Callback):
    """Watches for reward hacking: generated rewards that rank actions unlike measured ones.

    Logs the rank correlation of generated and measured reward within a state, and the Goodhart gap: the
    change of the measured reward after ascending the generated one. Below ``floor`` the agent learns from
    measured rewards, above it from generated ones; each change is reported. RENPNN has to earn trust first:
    until its rank correlation has passed the floor, rewards are measured.

    :param floor: smallest rank correlation at which generated rewards are trusted
    :param every: training steps between two measurements of the Goodhart gap
    """

    def __init__(self, floor: float, every: int = 5):
        self.floor, self.every = floor, every
        self.correlation: float | None = None
        self.trips = 0

    def on_train_start(self, trainer: L.Trainer, agent: D2RL) -> None:
        """Start in fallback: no generated reward is trusted before the first rank correlation."""
        if self.correlation is None and agent.generates_reward:
            agent.fallback = True

    def on_train_batch_end(self, trainer: L.Trainer, agent: D2RL, outputs: Any, batch: Any, batch_index: int) -> None:
        """Judge the rewards generated since the last time; reports that did not come end the run."""
        for world in agent.worlds:
            if world.windows is not None:
                world.windows.check()
        value = agent.means.current("renpnn/rank_correlation")
        if value is None:
            return
        value = mean(value, agent.device)
        old = value if self.correlation is None else self.correlation
        self.correlation = SMOOTHING * old + (1 - SMOOTHING) * value
        metrics = {"renpnn/smoothed_rank_correlation": self.correlation}
        distrusted = self.correlation < self.floor
        if distrusted != agent.fallback:
            agent.fallback = distrusted
            if distrusted:
                self.trips += 1
            chosen = "falls back to measured" if distrusted else "returns to generated"
            alert(
                trainer.loggers,
                "reward guard",
                f"rank correlation {self.correlation:.2f}, floor {self.floor:.2f}; learning {chosen} rewards",
            )
        if batch_index % self.every == 0 and agent.stages["reward"] and isinstance(agent.problem, Measurable):
            metrics["renpnn/goodhart_gap"] = float(goodhart_gap(agent))
        metrics["charts/alert_reward_fallback"] = float(agent.fallback)
        log(trainer.loggers, metrics, agent.environment_steps)

    def state_dict(self) -> dict[str, Any]:
        """What the guard remembers."""
        return {"correlation": self.correlation, "trips": self.trips}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.correlation, self.trips = saved["correlation"], saved["trips"]

"""StatePlausibility: does SENPNN make states that could be real?"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from d2rl.algorithm.agent import D2RL
from d2rl.common.notices import notice_once
from d2rl.runs.tracking import log


class StatePlausibility(Callback):
    """Compares synthetic states with real ones that SENPNN was not trained on, every few epochs.

    Logs each metric as ``senpnn/<kind>/<metric>`` and the share of them that lies within what chance gives
    between real states as ``senpnn/plausible_share``.

    :param every: epochs between two comparisons
    """

    def __init__(self, every: int = 5):
        self.every = every

    def on_train_epoch_end(self, trainer: L.Trainer, agent: D2RL) -> None:
        """Compare when due, once the state stage is planned; of several processes the first does."""
        due = (trainer.current_epoch + 1) % self.every == 0 and trainer.is_global_zero
        if agent.config.stages.state is None or agent.rejects("state") or not due:
            return
        problem: Any = agent.problem  # whose states can be diffused, or the stage would be refused
        explorer: Any = agent.senpnn
        real = agent.held_out
        if real.batch < 2:
            notice_once("one state to train on is too few to judge SENPNN by: plausibility metrics are left out.")
            return
        generator = torch.Generator(agent.device).manual_seed(agent.updates)
        made = explorer.generate(problem.rows(real), generator=generator)
        result = problem.plausibility(real, problem.with_rows(real, made, generator), generator)
        metrics = {f"senpnn/{name}": float(entry["value"]) for name, entry in result.items()}
        within = [float(entry["within"]) for entry in result.values()]
        metrics["senpnn/plausible_share"] = sum(within) / len(within)
        log(trainer.loggers, metrics, agent.environment_steps)

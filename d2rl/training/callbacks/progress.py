"""Progress: one line that tells how far training is and how good the policy."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from d2rl.algorithm.agent import D2RL
from d2rl.report.terminal import shown
from d2rl.training.callbacks.evaluation import PolicyEvaluation


class TrainingProgress(Callback):
    """A progress bar over all updates: the objective, its share of the reference, time left and device."""

    def __init__(self) -> None:
        self.bar: Progress | None = None

    def on_train_start(self, trainer: L.Trainer, agent: D2RL) -> None:
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[quality]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        ]
        planned = agent.config.trainer.epochs * agent.config.trainer.updates_per_epoch
        self.bar = Progress(*columns)
        self.bar.start()
        self.task = self.bar.add_task(
            f"updates on {agent.device.type}", total=planned, completed=agent.updates, quality=""
        )

    def on_train_batch_end(self, trainer: L.Trainer, agent: D2RL, outputs: Any, batch: Any, batch_index: int) -> None:
        latest = next((c.latest for c in trainer.callbacks if isinstance(c, PolicyEvaluation)), {})
        quality = f"{latest[agent.objective]:.1f} {getattr(agent.problem, 'unit', '')}" if latest else ""
        for name, ratio in latest.items():
            if name.endswith("_ratio"):
                quality += f", {shown(100 * ratio, 1)} % of {name.removesuffix('_ratio')}"
        if self.bar is not None:
            self.bar.update(self.task, completed=agent.updates, quality=quality)

    def on_train_end(self, trainer: L.Trainer, agent: D2RL) -> None:
        """Leave the last state on the screen."""
        self._stop()

    def on_exception(self, trainer: L.Trainer, agent: D2RL, exception: BaseException) -> None:
        """Give the terminal back."""
        self._stop()

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()

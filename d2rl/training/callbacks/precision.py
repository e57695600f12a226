"""MixedPrecision: low precision for the networks, none for the physics, and a watch over every number."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from d2rl.algorithm.agent import D2RL
from d2rl.common.distributed import total
from d2rl.common.errors import TrainingError, counted
from d2rl.runs.tracking import alert, log

TYPES = {"32": None, "bf16": torch.bfloat16}
PATIENCE = 3  # training steps in a row that may bring nothing finite


class MixedPrecision(Callback):
    """Runs the networks under bf16 autocast and watches for numbers that are not finite.

    Complex channel algebra, rates and losses stay in fp32 or better. On the device, without waiting for it, the
    agent skips a step whose loss or gradients are not finite, and the replay refuses a transition that is not. Here
    both are counted and reported, and training is stopped when nothing else is left. Weights are finite whatever
    happens, so every checkpoint is.

    Example::

        Trainer(callbacks=[MixedPrecision("bf16")]).fit(agent, steps)

    :param precision: ``32`` or ``bf16``
    :raises TrainingError: in :meth:`on_train_batch_end`, when ``PATIENCE`` training steps in a row had no finite
        transition or no finite loss and gradient
    """

    def __init__(self, precision: str = "32"):
        self.precision = precision
        self.skipped = self.refused = self.broken = 0

    def on_fit_start(self, trainer: L.Trainer, agent: D2RL) -> None:
        agent.autocast_type = TYPES[self.precision]

    def on_train_batch_start(self, trainer: L.Trainer, agent: D2RL, batch: Any, batch_index: int) -> None:
        """Note where the counters of what is asked for stand."""
        self._steps, self._transitions = agent.steps, agent.environment_steps

    def on_train_batch_end(self, trainer: L.Trainer, agent: D2RL, outputs: Any, batch: Any, batch_index: int) -> None:
        """Count what was skipped and refused since the last time; stop when that was everything."""
        skipped, refused = int(agent.skipped_steps()), total(agent.refused_transitions(), agent.device)
        if skipped:
            self.skipped += skipped
            self._report(
                trainer,
                agent,
                "skipped steps",
                f"{counted(skipped, 'optimizer step')} with a loss or gradient that was not finite: skipped "
                f"({self.skipped} so far)",
                self.skipped,
            )
        if refused:
            self.refused += refused
            self._report(
                trainer,
                agent,
                "refused transitions",
                f"{counted(refused, 'transition')} with channels, actions, rates or reports that were not finite: not "
                f"stored ({self.refused} so far)",
                self.refused,
            )
        steps, transitions = agent.steps - self._steps, agent.environment_steps - self._transitions
        nothing = skipped >= steps > 0 or refused >= transitions > 0
        self.broken = self.broken + 1 if nothing else 0
        if self.broken >= PATIENCE:
            self._stop(trainer, agent)

    def _report(self, trainer: L.Trainer, agent: D2RL, title: str, text: str, total: int) -> None:
        alert(trainer.loggers, title, text)
        name = title.replace(" ", "_")
        log(trainer.loggers, {f"charts/alert_{name}": float(total)}, agent.environment_steps)

    def _stop(self, trainer: L.Trainer, agent: D2RL) -> None:
        folders = [one.dirpath for one in trainer.callbacks if isinstance(one, ModelCheckpoint) and one.dirpath]
        where = f" in {folders[0]}" if folders else ""
        raise TrainingError(
            f"nothing finite was left to learn from in {self.broken} training steps, stopped at update "
            f"{agent.updates}. The weights are those of before, and the checkpoints{where} are whole. Lower "
            "ddpg.actor_rate and ddpg.critic_rate, or look at the channels."
        )

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"skipped": self.skipped, "refused": self.refused}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.skipped, self.refused = saved["skipped"], saved["refused"]

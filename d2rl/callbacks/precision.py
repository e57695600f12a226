"""MixedPrecision: low precision for the networks, none for the physics."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from d2rl.errors import ConfigError
from d2rl.tracking import alert, log

TYPES = {"32": None, "bf16": torch.bfloat16}


class MixedPrecision(Callback):
    """Runs the networks under bf16 autocast and watches for losses that are not finite.

    Complex channel algebra, rates and losses stay in fp32 or better. A step whose loss is not finite is
    skipped on the device without waiting for it; here the skipped steps are counted and reported.

    Example::

        Trainer(callbacks=[MixedPrecision("bf16")]).fit(agent, steps)

    :param precision: ``32`` or ``bf16``
    :raises ConfigError: anything else
    """

    def __init__(self, precision: str = "32"):
        if precision not in TYPES:
            raise ConfigError(f"trainer.precision={precision} is unknown; choose one of {', '.join(TYPES)}")
        self.precision = precision
        self.skipped = 0

    def on_fit_start(self, trainer: L.Trainer, agent: L.LightningModule) -> None:
        """Set the networks' precision."""
        agent.autocast_type = TYPES[self.precision]

    def on_train_batch_end(
        self, trainer: L.Trainer, agent: L.LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        """Count the steps that were skipped since the last time."""
        count = int(agent.skipped_steps())
        if count:
            self.skipped += count
            alert(
                trainer.loggers,
                "skipped steps",
                f"{count} optimizer steps with a loss that was not finite were skipped ({self.skipped} so far)",
            )
            log(trainer.loggers, {"charts/alert_skipped_steps": float(self.skipped)}, agent.environment_steps)

    def state_dict(self) -> dict[str, Any]:
        """The count."""
        return {"skipped": self.skipped}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue the count."""
        self.skipped = saved["skipped"]

"""GpuTimeProfiler: what training costs, section by section, and what it costs to reach a quality."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from d2rl.algorithm.agent import D2RL
from d2rl.common.errors import RunError, counted
from d2rl.common.files import keeping_on, write_json
from d2rl.common.timing import TimedSections
from d2rl.runs.tracking import log

THRESHOLDS = ("0.70", "0.80", "0.90")


class GpuTimeProfiler(Callback):
    """Seconds of device time per section, epoch and run; total time to each gap-closed threshold.

    On a GPU by CUDA events, read after each training step; on a CPU by process time. Evaluation is kept
    apart and is not part of any total.

    Example::

        profiler = GpuTimeProfiler(Path("runs/a/timing.json"))
        Trainer(callbacks=[profiler]).fit(agent, steps)
        profiler.total  # seconds

    :param path: of timing.json; None writes nothing
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self.before: dict[str, float] = {}
        self.epochs: list[float] = []
        self.time_to_gap: dict[str, float | None] = dict.fromkeys(THRESHOLDS)
        self.updates = 0
        self.device = ""
        self._sections: TimedSections | None = None

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of every section, over all parts of a resumed run."""
        now = self._sections.read() if self._sections else {}
        return {name: self.before.get(name, 0.0) + now.get(name, 0.0) for name in {**self.before, **now}}

    @property
    def total(self) -> float:
        """Seconds of training."""
        return sum(self.seconds.values())

    def on_fit_start(self, trainer: L.Trainer, agent: D2RL) -> None:
        """Put the clock into the agent's sections."""
        self.device = device_name(agent.device)
        self._sections = agent.sections = TimedSections(agent.device)

    def on_train_batch_end(self, trainer: L.Trainer, agent: D2RL, outputs: Any, batch: Any, batch_index: int) -> None:
        """Log the sections' seconds."""
        self.updates = agent.updates
        seconds = self.seconds
        metrics = {f"time/{name}": value for name, value in seconds.items()}
        log(trainer.loggers, {**metrics, "time/total": sum(seconds.values())}, agent.environment_steps)

    def evaluated(self, gap_closed: float) -> None:
        """Told by the evaluation; notes the time at which a threshold is passed first."""
        for threshold in THRESHOLDS:
            if self.time_to_gap[threshold] is None and gap_closed >= float(threshold):
                self.time_to_gap[threshold] = self.total

    def on_train_epoch_end(self, trainer: L.Trainer, agent: D2RL) -> None:
        """Log the epoch's seconds and keep timing.json up to date."""
        self.epochs.append(self.total - sum(self.epochs))
        log(trainer.loggers, {"time/epoch": self.epochs[-1]}, agent.environment_steps)
        self.write()

    def on_exception(self, trainer: L.Trainer, agent: D2RL, exception: BaseException) -> None:
        """Keep what was measured, unless the run has lost its place."""
        if self._sections and not isinstance(exception, RunError):
            self.write()

    def report(self) -> dict[str, Any]:
        """Content of timing.json."""
        return {
            "device": self.device,
            "updates": self.updates,
            "seconds": self.seconds,
            "total_seconds": self.total,
            "seconds_per_update": self.total / max(1, self.updates),
            "seconds_per_epoch": self.epochs,
            "time_to_gap": self.time_to_gap,
        }

    def write(self) -> None:
        """Write timing.json."""
        if self.path is not None:
            with keeping_on(self.path):
                write_json(self.path, self.report())

    def state_dict(self) -> dict[str, Any]:
        """What was spent so far, so that a resumed run goes on counting."""
        return {
            "updates": self.updates,
            "seconds": self.seconds,
            "epochs": list(self.epochs),
            "time_to_gap": dict(self.time_to_gap),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.before, self.updates = saved["seconds"], saved["updates"]
        self.epochs, self.time_to_gap = saved["epochs"], saved["time_to_gap"]


def device_name(device: torch.device) -> str:
    """Name of the device that times are from."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {counted(torch.get_num_threads(), 'thread')}"

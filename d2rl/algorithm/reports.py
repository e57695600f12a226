"""Windows of a replay: the slots of a cell that one report is of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2rl.algorithm.replay import ReplayBuffer
from d2rl.algorithm.rewards import to_scalar
from d2rl.common.errors import ConfigError, InputError, counted
from d2rl.config.defaults import RunConfig
from d2rl.problems.base import Problem, Step, Transition

REGRESSION = "regression"  # reward.explorer: rewards without diffusion, a control
HELD_OUT = 8  # one of this many cells is kept from RENPNN, to judge it by


def splits_reports(config: RunConfig, problem: Problem) -> bool:
    """Whether RENPNN generates what links and slots had of reports, of which only the sum is told."""
    generates = config.reward.generated and config.stages.reward is not None
    return generates and getattr(problem, "tells_sums", False)


def check_room(config: RunConfig, problem: Problem) -> None:
    """Make sure that whole windows of reports stay in the replay. :raises ConfigError: it holds no two of each cell"""
    slots, cells = getattr(problem, "report_slots", 1), config.trainer.num_envs
    needed = 2 * slots * cells
    if splits_reports(config, problem) and needed > config.ddpg.replay:
        raise ConfigError(
            f"ddpg.replay={config.ddpg.replay} is too small for reports of {slots} slots of {cells} cells, of which "
            f"rewards are generated; set ddpg.replay to {needed} at least."
        )


class ReportWindows:
    """Finds the windows of B cells in a replay: n slots each, one after the other, told of by one report.

    The rows of a slot lie side by side in the ring, slot after slot, so windows need no memory of their own. When a
    report has come, every slot of its window is given an equal share of it as utility; the shares add up to the report.

    :param replay: to which B transitions are added in every slot
    :param slots: n
    :param batch: B
    """

    def __init__(self, replay: ReplayBuffer, slots: int, batch: int):
        self.replay, self.slots, self.batch = replay, slots, batch
        self.judges = max(2, batch // HELD_OUT)
        self.waiting = 0  # slots since the last report
        self.told: Tensor | None = None  # [B], of these, the slots that reports were of
        self.missing: Tensor | int = 0
        self.unsound: Tensor | int = 0  # reports that were not finite
        self.end = torch.zeros((), dtype=torch.int64)  # the row after the last whole window
        self.kept = torch.zeros((), dtype=torch.float64)  # whole windows of each cell

    @property
    def ready(self) -> bool:
        """Whether there is a whole window."""
        return self.replay.ready and self._whole() > 0

    def add(self, step: Step) -> None:
        """Take notice of the slot that was added to the replay just now."""
        reported = torch.ones(self.batch, device=step.utility.device) if step.reported is None else step.reported
        self.told = reported if self.told is None else self.told + reported
        self.unsound = self.unsound + (~step.utility.isfinite()).flatten(1).any(1).sum()
        self.waiting += 1
        if self.waiting == self.slots:
            self.missing = self.missing + (self.told != self.slots).sum()
            self.told, self.waiting = None, 0
            self._find()
            self._share()
        self._find()

    def check(self) -> None:
        """Make sure that every window had its report, of numbers; waits for the device.

        :raises InputError: one had not
        """
        if int(self.unsound):
            raise InputError(
                f"{counted(int(self.unsound), 'report')} held NaN or infinite values, and rewards were to be generated "
                "from reports; mend what the problem tells in Step.utility, or set reward.generated=false."
            )
        if int(self.missing):
            raise InputError(
                f"{counted(int(self.missing), 'window')} of {self.slots} slots came without a report of all their "
                "slots, and rewards were to be generated from reports; make Step.reported and report_slots of the "
                "problem agree, "
                "or set reward.generated=false."
            )

    def sample(self, count: int, generator: torch.Generator) -> Transition:
        """The slots of ``count`` windows that RENPNN may learn from, a window's side by side: batch count n."""
        age, cell = self._uniform((2, count), generator)
        index = self._index((age * self.kept).long(), (cell * (self.batch - self.judges)).long())
        return self.replay.at(index.flatten())

    def judged(self, count: int, generator: torch.Generator) -> Transition:
        """As :meth:`sample`, ``count`` times the windows of all cells that are kept from RENPNN, of one time each."""
        age = (self._uniform((count,), generator) * self.kept).long().repeat_interleave(self.judges)
        cell = torch.arange(self.batch - self.judges, self.batch, device=self.end.device).repeat(count)
        return self.replay.at(self._index(age, cell).flatten())

    def sample_slots(self, count: int, generator: torch.Generator) -> Transition:
        """``count`` slots of whole windows, which have their shares."""
        age, cell, slot = self._uniform((3, count), generator)
        index = self._index((age * self.kept).long(), (cell * self.batch).long())
        return self.replay.at(index.gather(1, (slot * self.slots).long().unsqueeze(1)).flatten())

    def state_dict(self) -> dict[str, Any]:
        """What the replay does not tell."""
        return {"waiting": self.waiting, "told": self.told, "missing": self.missing}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue, after the replay was loaded."""
        self.waiting, self.told, self.missing = saved["waiting"], saved["told"], saved["missing"]
        self._find()

    def _whole(self) -> int:
        return (self.replay.filled // self.batch - self.waiting) // self.slots

    def _find(self) -> None:
        """Where the whole windows are, on the device, where captured updates read it."""
        device = self.replay.bound.device
        if self.end.device != device:
            self.end, self.kept = self.end.to(device), self.kept.to(device)
        self.end.fill_((self.replay.position - self.waiting * self.batch) % self.replay.capacity)
        self.kept.fill_(self._whole())

    def _share(self) -> None:
        """Give every slot of the newest windows its share."""
        utility = self.replay.storage["utility"]
        cells = torch.arange(self.batch, device=utility.device)
        index = self._index(torch.zeros_like(cells), cells)
        share = utility[index.flatten()].unflatten(0, index.shape).mean(1, keepdim=True)
        utility.index_copy_(0, index.flatten(), share.expand(-1, self.slots, *share.shape[2:]).flatten(0, 1))

    def _index(self, age: Tensor, cell: Tensor) -> Tensor:
        """Rows [count, n] of the windows of cells; age 0 is the newest window."""
        slots = torch.arange(self.slots, device=age.device) - self.slots * (age.unsqueeze(-1) + 1)
        return (self.end + slots * self.batch + cell.unsqueeze(-1)) % self.replay.capacity

    def _uniform(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.rand(shape, dtype=torch.float64, generator=generator, device=self.end.device)


def beyond_baselines(batch: Transition, slots: int) -> Tensor:
    """[W, M], what reports are beyond the weighted sum of their links' and slots' baselines, which are known.

    :param batch: of whole windows, a window's slots side by side
    """
    own = to_scalar(batch.utility - batch.observation.baseline.unsqueeze(1), batch.observation.weights)
    return own.unflatten(0, (len(own) // slots, slots)).sum(1)

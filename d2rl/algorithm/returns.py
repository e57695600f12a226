"""What a transition waits for before it is stored: the rewards of the next slots, or the report that covers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from d2rl.config.defaults import RunConfig
from d2rl.problems.base import Observation, Problem, Step, Transition

Slot = tuple[Transition, Tensor, Tensor]  # transitions of B states; [B] bool, whose episode ended; [B], reported slots


class ReturnWindow:
    """Holds the transitions of the last slots, and gives away the oldest once it is known what it was worth.

    :param length: slots
    :param combine: the oldest of that many slots with what follows from the others
    """

    def __init__(self, length: int, combine: Callable[[Sequence[Slot]], Transition]):
        self.length, self.combine = length, combine
        self.slots: list[Slot] = []
        self.saved: list[dict[str, Any]] = []

    @classmethod
    def of(cls, config: RunConfig, problem: Problem) -> ReturnWindow:
        """The window that a configuration asks for; of one slot, which changes nothing, by default."""
        if config.reward.share_reports:
            return cls(getattr(problem, "report_slots", 1), shared_report)
        return cls(config.ddpg.steps, partial(n_step_return, gamma=config.ddpg.gamma))

    def add(self, transition: Transition, step: Step) -> Transition | None:
        """Take in the latest slot; give away the oldest one, where the window is full."""
        if self.length == 1:
            return transition
        for kept in self.saved:
            self.slots.append((transition.with_tensors(kept["transition"]), kept["ended"], kept["reported"]))
        self.saved = []
        ended = step.truncated | step.terminated
        reported = torch.ones_like(ended, dtype=torch.float32) if step.reported is None else step.reported
        self.slots.append((transition, ended, reported))
        if len(self.slots) < self.length:
            return None
        done = self.combine(self.slots)
        del self.slots[0]
        return done

    def state_dict(self) -> list[dict[str, Any]]:
        """The slots that wait, as plain containers."""
        own = [{"transition": one.tensors(), "ended": ended, "reported": told} for one, ended, told in self.slots]
        return self.saved + own

    def load_state_dict(self, saved: list[dict[str, Any]]) -> None:
        """Continue; the next slot tells what form transitions have."""
        self.slots, self.saved = [], list(saved)


def n_step_return(slots: Sequence[Slot], gamma: float) -> Transition:
    """Discounted rewards of n slots, or of those to the end of the episode, and the state from which to go on.

    .. math:: \\sum_{i < m} \\gamma^i r_{t+i} + \\gamma^m Q(s_{t+m}), \\quad m \\le n

    ``discount`` is gamma^m of every state.
    """
    first = slots[0][0]
    assert first.following is not None  # gamma > 0
    assert first.terminated is not None
    utility, following, terminated = torch.zeros_like(first.utility), first.following, first.terminated
    running = torch.ones_like(terminated)
    discount = torch.ones_like(running, dtype=utility.dtype)
    for index, (one, ended, _) in enumerate(slots):
        assert one.following is not None
        assert one.terminated is not None
        utility = utility + gamma**index * one.utility * running[:, None, None]
        following = _chosen(running, one.following, following)
        terminated = torch.where(running, one.terminated, terminated)
        discount = torch.where(running, gamma ** (index + 1), discount)
        running = running & ~ended
    return replace(first, utility=utility, following=following, terminated=terminated, discount=discount)


def shared_report(slots: Sequence[Slot]) -> Transition:
    """The oldest slot with an equal share of the first report since."""
    first = slots[0][0]
    utility, open_ = torch.zeros_like(first.utility), torch.ones_like(slots[0][1])
    for one, _, reported in slots:
        due = open_ & (reported > 0)
        share = one.utility / reported.clamp_min(1)[:, None, None]
        utility = torch.where(due[:, None, None], share, utility)
        open_ = open_ & ~due
    return replace(first, utility=utility)


def _chosen(rows: Tensor, first: Observation, second: Observation) -> Observation:
    """The first observation in these rows, the second elsewhere."""
    others = second.tensors()
    return first.with_tensors(
        {
            name: torch.where(rows.view(-1, *[1] * (tensor.dim() - 1)), tensor, others[name])
            for name, tensor in first.tensors().items()
        }
    )

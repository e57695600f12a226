"""Conformance of problems that tell the learner sums alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2rl.problems.base import Observation
from d2rl.testing.expectations import expect, generator


def check_reports(problem: Any, batch: int) -> None:
    """A report is the weighted sum of what the entities had in the slots since the one before, and comes in time.

    :param problem: tells sums alone (``tells_sums``); with ``telling_all()`` the sums are compared, too
    :param batch: B, states side by side
    :raises AssertionError: names the slot and what does not hold
    """
    count = getattr(problem, "report_slots", 1)
    whole = problem.telling_all() if hasattr(problem, "telling_all") else None
    draws, same = generator(12), generator(12)
    state, other = problem.reset(batch, draws), whole.reset(batch, same) if whole else None
    slots, had = torch.zeros(batch), torch.zeros(batch)
    for slot in range(2 * count):
        action = torch.rand(batch, 1, problem.layout.size, generator=generator(slot)) * 2 - 1
        seen = problem.observe(state)
        step = problem.step(state, problem.decode(seen, action), draws)
        told = _weighted(step.utility, seen)
        expect(bool(told.isfinite().all()), f"the report of slot {slot} is not finite")
        reported = torch.ones(batch) if step.reported is None else step.reported
        slots, due = slots + 1, reported > 0
        still = not bool(told[~due].any())
        expect(still, f"step().utility of slot {slot} is not 0, though its report is still to come")
        expect(
            bool((reported == slots)[due].all()),
            f"step().reported of slot {slot} says {_listed(reported)} slots, and {_listed(slots)} have passed since "
            "the reports before",
        )
        expect(bool((due | (slots < count)).all()), f"no report in {count} slots, which report_slots says")
        if whole is not None:
            seen = whole.observe(other)
            all_told = whole.step(other, whole.decode(seen, action), same)
            had, other = had + _weighted(all_told.utility, seen), all_told.state
            close = torch.isclose(told, had, rtol=1e-3, atol=1e-3)
            expect(
                bool(close[due].all()),
                f"the report of slot {slot} says {_listed(told)} of the states, and the weighted sums of what their "
                f"entities had in its slots, by telling_all(), are {_listed(had)}",
            )
        slots, had, state = slots.masked_fill(due, 0), had.masked_fill(due, 0), step.state


def _weighted(utility: Tensor, seen: Observation) -> Tensor:
    """Weighted sum over the entities of utilities [B, 1, K], [B]."""
    return (utility.squeeze(1) * seen.weights).sum(-1)


def _listed(numbers: Tensor) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers.tolist())

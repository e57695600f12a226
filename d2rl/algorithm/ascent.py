"""Local search in the coordinates of the policy: steps up the gradient of the utility on the numbers of an action."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2rl.problems.base import Decision, Observation

LENGTH = 0.2  # of the first step of every number, before tanh; steps shrink linearly
LARGEST = 1 - 1e-6  # of a number that can still move


def ascend(problem: Any, observation: Observation, action: Tensor, steps: int) -> Decision:
    """The best decision, by the weighted utility on what is known, on the way of some steps from an action.

    Every number moves by as much, before tanh, in the direction in which the utility grows. Numbers of an action tell
    much by little: a few such steps gain what a search over beams and powers takes dozens for (docs/results.md).

    :param problem: with a closed-form utility
    :param action: one of each state, [B, 1, size] in [-1, 1]
    :param steps: K, 1 or more
    """
    numbers = action.clamp(-LARGEST, LARGEST).atanh()
    highest = torch.full_like(observation.weights[:, 0], -torch.inf)
    best: Decision = None
    for step in range(steps + 1):
        last = step == steps
        with torch.set_grad_enabled(not last):
            numbers = numbers.detach().requires_grad_(not last)
            decision = problem.decode(observation, numbers.tanh())
            utility = (problem.utility(observation, decision)[:, 0] * observation.weights).sum(-1)
            slope = None if last else torch.autograd.grad(utility.sum(), numbers)[0]
        if slope is not None:
            numbers = numbers + LENGTH * (1 - step / steps) * slope.sign()
        decision, utility = tuple(part.detach() for part in decision), utility.detach()
        better = utility > highest
        highest = torch.where(better, utility, highest)
        best = decision if best is None else chosen_of(better, decision, best)
    return best


def chosen_of(first: Tensor, one: Decision, other: Decision) -> Decision:
    """Of two decisions of each state the one where ``first``, [B], is true, else the other."""
    pairs = zip(one, other, strict=True)
    return tuple(torch.where(first.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in pairs)

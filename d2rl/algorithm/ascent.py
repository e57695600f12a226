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
    best: Decision = None
    with torch.inference_mode(False), torch.enable_grad():
        observation, action = observation.map(torch.clone), action.clone()  # tensors of inference mode have no gradient
        numbers = action.clamp(-LARGEST, LARGEST).atanh()
        highest = torch.full_like(observation.weights[:, 0], -torch.inf)
        for step in range(steps + 1):
            numbers = numbers.detach().requires_grad_()
            decision = problem.decode(observation, numbers.tanh())
            utility = (problem.utility(observation, decision)[:, 0] * observation.weights).sum(-1)
            better = utility.detach() > highest
            highest = torch.where(better, utility.detach(), highest)
            decided = tuple(part.detach() for part in decision)
            best = decided if best is None else chosen_of(better, decided, best)
            if step < steps:
                (slope,) = torch.autograd.grad(utility.sum(), numbers)
                numbers = numbers + LENGTH * (1 - step / steps) * slope.sign()
    return best


def chosen_of(first: Tensor, one: Decision, other: Decision) -> Decision:
    """Of two decisions of each state the one where ``first``, [B], is true, else the other."""
    pairs = zip(one, other, strict=True)
    return tuple(torch.where(first.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in pairs)

"""Conformance of policy networks."""

from __future__ import annotations

from typing import Any

import torch

from d2rl.problems.base import Problem
from d2rl.testing.expectations import expect, finite, generator, written_and_read


def check_policy(policy: Any, problem: Problem, batch: int = 3) -> None:
    """Hold a policy network (``sample`` and ``loss``, such as AENPNN) against what the agent asks of it.

    :param policy: ``sample(observation, count, generator)`` gives actions before tanh
    :param problem: whose states it is asked about
    :param batch: B, states side by side
    :raises AssertionError: names what does not hold
    """
    seen, size = problem.observe(problem.reset(batch, generator(0))), problem.layout.size
    several = policy.sample(seen, 4, generator(1))
    expect(several.shape == (batch, 4, size), f"sample() gives {tuple(several.shape)}, not {(batch, 4, size)}")
    finite(several, "sample()")
    expect(torch.equal(several, policy.sample(seen, 4, generator(1))), "sample() with the same generator differs")
    parts = torch.cat([policy.sample(seen[row : row + 1], 1, generator(1)) for row in range(batch)])
    expect(parts.shape == (batch, 1, size), "sample() of single states has another shape")
    stored = policy.state_dict()
    policy.load_state_dict(written_and_read(stored))
    expect(torch.equal(several, policy.sample(seen, 4, generator(1))), "sample() after saving and loading differs")

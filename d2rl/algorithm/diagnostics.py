"""What callbacks ask of an agent before they steer it; nothing here changes the agent's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.rewards import raw_reward, to_scalar

JUDGED = 16  # held-out states whose loss moves chi: asked after every training step, at every step of the chain


def state_explorer_loss(agent: D2RL) -> Tensor:
    """SENPNN's loss on states kept from it."""
    problem: Any = agent.problem
    assert agent.senpnn is not None
    with agent.sections("senpnn"):
        return agent.senpnn.held_out_loss(problem.rows(agent.held_out[:JUDGED]), agent.generator)


def trained_state_loss(agent: D2RL) -> Tensor:
    """SENPNN's loss on as many of the states that it trains on.

    Below :func:`state_explorer_loss` it tells that they are few: SENPNN has begun to learn them by heart.
    """
    problem: Any = agent.world.problem
    states: Any = agent.diffused() if agent.stored is None else agent.stored
    chosen = torch.randint(states.batch, (JUDGED,), generator=agent.generator, device=agent.device)
    assert agent.senpnn is not None
    with agent.sections("senpnn"):
        return agent.senpnn.held_out_loss(problem.rows(states[chosen]), agent.generator)


def goodhart_gap(agent: D2RL, rate: float = 0.1) -> Tensor:
    """Measured reward after a step up the generated one, minus before; negative is reward hacking.

    :param rate: length of the step
    """
    problem: Any = agent.world.problem
    state = agent.world.state
    with agent.sections("renpnn"):
        observation = problem.observe(state)
        action = agent.propose(observation, 1, agent.generator).requires_grad_()
        with torch.enable_grad():
            view = agent.view(observation, action)
            generated = agent.renpnn.generate(observation, view, agent.config.reward.samples, agent.generator)
            (slope,) = torch.autograd.grad(to_scalar(generated, observation.weights).sum(), action)
        step = rate * slope / slope.norm(dim=-1, keepdim=True).clamp_min(1e-9)
        before, after = (
            raw_reward(problem.measure(state, problem.decode(observation, one)), observation).mean()
            for one in (action.detach(), (action.detach() + step).clamp(-1, 1))
        )
        return after - before

"""What callbacks ask of an agent before they steer it; nothing here changes the agent's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.explorers.controls import mixed
from d2rl.algorithm.explorers.reward import rank_correlation
from d2rl.algorithm.reports import beyond_baselines
from d2rl.algorithm.rewards import raw_reward, to_scalar

PROBED = 256  # states on which the policy is compared before the state stage
RANKED = 16  # slots, or times of reports, by whose rewards RENPNN and the critic are compared before the reward stage
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


@torch.no_grad()
def unseen_loss(agent: D2RL) -> Tensor:
    """Share of its utility that the policy loses where states are put together of others' rows: what it knows by heart.

    Such states are as real as those that it learns from, however little SENPNN has learned. Utilities count beyond the
    baselines of the same states, so that worse states are no loss.
    """
    problem: Any = agent.world.problem
    generator = torch.Generator(agent.device).manual_seed(agent.updates)
    with agent.sections("senpnn"):
        real = problem.reset(PROBED, generator)
        numbers = {name: mixed(rows, rows, generator) for name, rows in problem.rows(real).items()}
        reached = []
        for state in (real, problem.with_rows(real, numbers, generator)):
            seen = problem.observe(state)
            decision = problem.decode(seen, agent.propose(seen, 1, generator))
            utility = raw_reward(problem.measure(state, decision), seen).flatten()
            reached.append((utility, utility - (seen.baseline * seen.weights).sum(-1)))
        (utility, own), (_, made) = reached
        return (own - made).mean() / utility.abs().mean().clamp_min(1e-9)


@torch.no_grad()
def reward_lead(agent: D2RL) -> Tensor:
    """How much better RENPNN ranks newest rewards than the critic ranks those that it learns from, -2 to 2.

    Among the actions of a state, or where there is one among the cells of a slot. Of reports, among those of cells that
    RENPNN does not learn from, beyond their baselines.
    """
    world, samples = agent.world, agent.config.reward.samples
    generator = torch.Generator(agent.device).manual_seed(agent.updates)
    windows = world.windows
    slots = min(RANKED, agent.replay.filled // world.batch)
    batch = agent.replay.newest(slots * world.batch) if windows is None else windows.judged(RANKED, generator)
    seen, view = batch.observation, batch.view
    with agent.sections("renpnn"), agent.autocast():
        made = to_scalar(agent.renpnn.generate(seen, view, samples, generator), seen.weights)
        value = agent.critic_value(seen, view)
    if windows is None:
        pairs = [(made, to_scalar(agent.case_reward(batch.utility, seen), seen.weights))]
        pairs.append((value, to_scalar(agent.measured_reward(batch), seen.weights)))
        cells = world.batch if view.shape[1] == 1 else None
    else:
        known = (seen.baseline * seen.weights).sum(-1, keepdim=True) / agent.config.ddpg.reward_scale
        told, cells = beyond_baselines(batch, windows.slots), windows.judges
        pairs = [(one.unflatten(0, (-1, windows.slots)).sum(1), told) for one in (made, value - known)]
    if cells is not None:
        pairs = [tuple(one.unflatten(0, (-1, cells)).mT.flatten(0, 1) for one in pair) for pair in pairs]
    ahead, behind = (rank_correlation(*pair) for pair in pairs)
    return ahead - behind

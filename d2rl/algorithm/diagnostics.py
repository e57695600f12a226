"""What callbacks ask of an agent before they steer it; nothing here changes the agent's weights."""

from __future__ import annotations

import torch
from torch import Tensor

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.explorers.reward import raw_reward, worth
from d2rl.algorithm.networks import observe

JUDGED = 16  # held-out states whose loss moves chi: asked after every training step, at every step of the chain


def state_explorer_loss(agent: D2RL) -> Tensor:
    """SENPNN's loss on states kept from it."""
    with agent.sections("senpnn"):
        kept = agent.held_out[:JUDGED]
        return agent.senpnn.held_out_loss(kept.channels, kept.gains, agent.generator)


def gradient_cosine(agent: D2RL) -> Tensor:
    """Cosine between the policy's gradients on the real states of this slot and on synthetic ones."""
    policy, state = agent.aenpnn if agent.stages["action"] else agent.actor, agent.env.state
    gradients = []
    with agent.sections("senpnn"):
        synthetic = agent.senpnn.generate(state.channels, state.gains, generator=agent.generator)
        for channels in (state.channels, synthetic):
            observation = observe(channels, state.weights)
            noise = torch.Generator(agent.device).manual_seed(agent.updates)  # the same on both sides
            value = agent.value(observation, agent.policy_output(observation, noise).tanh()).mean()
            parts = torch.autograd.grad(value, list(policy.parameters()), allow_unused=True)
            gradients.append(torch.cat([part.flatten() for part in parts if part is not None]))
    real, made = gradients
    return torch.nn.functional.cosine_similarity(real, made, dim=0)


def goodhart_gap(agent: D2RL, rate: float = 0.1) -> Tensor:
    """Measured reward after a step up the generated one, minus before; negative is reward hacking.

    :param rate: length of the step
    """
    with agent.sections("renpnn"):
        state = agent.env.state
        observation = observe(state.estimate, state.weights)
        action = agent.propose(observation, 1, agent.generator).requires_grad_()
        with torch.enable_grad():
            view = agent.view(observation, action)
            generated = agent.renpnn.generate(observation, view, agent.config.reward.samples, agent.generator)
            (slope,) = torch.autograd.grad(worth(generated, observation.weights).sum(), action)
        step = rate * slope / slope.norm(dim=-1, keepdim=True).clamp_min(1e-9)
        before, after = (
            raw_reward(agent.env.measure(state, a), state.weights).mean()
            for a in (action.detach(), (action.detach() + step).clamp(-1, 1))
        )
        return after - before

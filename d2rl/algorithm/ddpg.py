"""DDPG (Lillicrap et al., ICLR 2016): deterministic actor, critic and their losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2rl.algorithm.networks import ActionOutput
from d2rl.algorithm.rewards import level_and_unit
from d2rl.problems.base import Layout, Observation, Transition


class DeterministicActor(nn.Module):
    """mu(s): one action for each state.

    :param encoder: state -> [B, K, width]
    :param layout: of the action
    :param width: of the embeddings
    :param penalty: weight of the squared output before tanh
    """

    def __init__(self, encoder: nn.Module, layout: Layout, width: int, penalty: float = 1e-2):
        super().__init__()
        self.encoder, self.output, self.penalty = encoder, ActionOutput(layout, width), penalty

    def forward(self, observation: Observation) -> Tensor:
        """The action before tanh, [B, size]."""
        numbers = self.output(self.encoder(observation), observation.layout)
        return observation.layout.to_flat(numbers).float()

    def sample(self, observation: Observation, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``count`` times the one action of each state, before tanh: [B, count, size]."""
        return self(observation).unsqueeze(1).expand(-1, count, -1)

    def loss(
        self,
        batch: Transition,
        value: Callable[[Observation, Tensor], Tensor],
        quality: Callable[[], Tensor],
        generator: torch.Generator,
        step: int = 1,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus Q of the policy's action, with the penalty; the arguments are those of every policy.

        :param value: Q of actions [B, M, size], differentiable: [B, M]
        :returns: loss; metrics, detached
        """
        output = self(batch.observation)
        q = value(batch.observation, output.tanh().unsqueeze(1)).mean()
        loss = self.penalty * saturation(output) - q
        return loss, {"actor": loss.detach()}


class Critic(nn.Module):
    """Q(s, a) as one value for each entity; for a scalar reward their sum is the value.

    :param transition: (state, views of actions) -> [B, M, K, width]
    :param width: of the embeddings
    :param entities: each of them then has a level and a unit of its own, those of its first rewards; None: all share
        one level, and the unit is 1
    """

    level: Tensor
    unit: Tensor

    def __init__(self, transition: nn.Module, width: int, entities: int | None = None):
        super().__init__()
        self.transition, self.out, self.own_units = transition, nn.Linear(width, 1), entities is not None
        if entities is not None:
            self.register_buffer("level", torch.zeros(entities))
            self.register_buffer("unit", torch.ones(entities))

    def forward(self, observation: Observation, view: Tensor) -> Tensor:
        """Values [B, M, K] of M actions for each state, seen as views [B, M, K, view]."""
        value = self.out(self.transition(observation, view)).squeeze(-1).float()
        return value * self.unit + self.level if self.own_units else value

    @torch.no_grad()
    def calibrate(self, observation: Observation, view: Tensor, reward: Tensor) -> None:
        """Shift the output to the mean of the first rewards, so that learning begins with differences."""
        if self.own_units and reward.shape[-1] > 1:
            level, unit = level_and_unit(reward, per_entity=True)
            self.level.copy_(level)
            self.unit.copy_(unit)
            return
        error = reward.sum(-1) - self(observation, view).sum(-1)
        self.out.bias.add_(error.mean() / observation.layout.entities)


def critic_loss(value: Tensor, target: Tensor, unit: Tensor | None = None) -> Tensor:
    """Mean squared error of values [B, M, K] against one target per link [B, M, K] or one in all [B, M, 1].

    :param unit: [K], in which the errors of links are counted; None: 1
    """
    if target.shape[-1] == 1:
        return F.mse_loss(value.sum(-1, keepdim=True), target)
    return F.mse_loss(value, target) if unit is None else F.mse_loss(value / unit, target / unit)


def saturation(output: Tensor) -> Tensor:
    """Mean squared output before tanh; keeps actions off the flat ends of tanh.

    :param output: of any shape
    """
    return output.square().mean()


@torch.no_grad()
def polyak_update(target: tuple[Tensor, ...], source: tuple[Tensor, ...], rate: float) -> None:
    """Polyak step of the weights of a target network: theta' <- (1 - tau) theta' + tau theta."""
    torch._foreach_lerp_(target, source, rate)

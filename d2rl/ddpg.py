"""DDPG (Lillicrap et al., ICLR 2016): deterministic actor, critic and their losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2rl.networks import ActionOutput, Observation, downlink_mask
from d2rl.wireless.heads import ActionLayout


class DeterministicActor(nn.Module):
    """mu(s): one action for each state.

    :param encoder: state -> [B, K, width]
    :param layout: of the action
    :param width: of the embeddings
    """

    def __init__(self, encoder: nn.Module, layout: ActionLayout, width: int):
        super().__init__()
        self.encoder, self.layout, self.output = encoder, layout, ActionOutput(layout.width, width)

    def forward(self, observation: Observation) -> Tensor:
        """The action before tanh, [B, size]."""
        embedding, users = self.encoder(observation), observation.channels.downlink_users
        numbers = self.output(embedding, downlink_mask(embedding.shape[-2], users, embedding.device))
        return self.layout.to_flat(numbers, users).float()


class Critic(nn.Module):
    """Q(s, a), one value for each link or one for all.

    :param transition: (state, actions) -> [B, M, K, width]
    :param width: of the embeddings
    :param per_link: a value for each link (a discriminative reward), else their sum is the one value
    """

    def __init__(self, transition: nn.Module, width: int, per_link: bool):
        super().__init__()
        self.transition, self.per_link = transition, per_link
        self.out = nn.Linear(width, 1)

    def forward(self, observation: Observation, action: Tensor) -> Tensor:
        """Values [B, M, K] or [B, M, 1] of M actions [B, M, size] for each state."""
        values = self.out(self.transition(observation, action)).squeeze(-1).float()
        return values if self.per_link else values.sum(-1, keepdim=True)

    @torch.no_grad()
    def calibrate(self, observation: Observation, action: Tensor, reward: Tensor) -> None:
        """Shift the output to the mean of the first rewards, so that learning begins with differences."""
        error = (reward - self(observation, action)).mean()
        self.out.bias.add_(error if self.per_link else error / observation.channels.links)


def critic_loss(critic: Critic, observation: Observation, action: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of Q(s, a) against its target [B, M, K or 1]."""
    return F.mse_loss(critic(observation, action), target)


def weighted_value(value: Tensor, weights: Tensor) -> Tensor:
    """Value of a decision, [B, M], from values [B, M, K] of links with weights [B, K], or from [B, M, 1]."""
    return value.squeeze(-1) if value.shape[-1] == 1 else (value * weights.unsqueeze(1)).sum(-1)


def saturation(output: Tensor) -> Tensor:
    """Mean squared output before tanh; keeps actions off the flat ends of tanh."""
    return output.square().mean()


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Polyak step of the target network: theta' <- (1 - tau) theta' + tau theta."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), rate)

"""DDPG (Lillicrap et al., ICLR 2016): deterministic actor, critic and their losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2rl.algorithm.networks import ActionOutput, Observation, downlink_mask
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
    """Q(s, a) as one value for each link; for a scalar reward their sum is the value.

    :param transition: (state, views of actions) -> [B, M, K, width]
    :param width: of the embeddings
    """

    def __init__(self, transition: nn.Module, width: int):
        super().__init__()
        self.transition, self.out = transition, nn.Linear(width, 1)

    def forward(self, observation: Observation, view: Tensor) -> Tensor:
        """Values [B, M, K] of M actions for each state, seen as views [B, M, K, view]."""
        return self.out(self.transition(observation, view)).squeeze(-1).float()

    @torch.no_grad()
    def calibrate(self, observation: Observation, view: Tensor, reward: Tensor) -> None:
        """Shift the output to the mean of the first rewards, so that learning begins with differences."""
        error = reward.sum(-1) - self(observation, view).sum(-1)
        self.out.bias.add_(error.mean() / observation.channels.links)


def critic_loss(value: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of values [B, M, K] against one target per link [B, M, K] or one in all [B, M, 1]."""
    return F.mse_loss(value if target.shape[-1] > 1 else value.sum(-1, keepdim=True), target)


def saturation(output: Tensor) -> Tensor:
    """Mean squared output before tanh; keeps actions off the flat ends of tanh."""
    return output.square().mean()


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Polyak step of the target network: theta' <- (1 - tau) theta' + tau theta."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), rate)

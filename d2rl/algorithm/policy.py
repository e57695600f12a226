"""The policy: what decides. It knows how its problem reads an action, and needs no simulator, replay or critic."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from d2rl.algorithm.ddpg import DeterministicActor
from d2rl.algorithm.explorers.action import AENPNN
from d2rl.algorithm.networks import make_encoder
from d2rl.config.defaults import RunConfig
from d2rl.problems.base import Observation, Problem


class Proposer(Protocol):
    """Anything that proposes actions for a problem: a :class:`Policy` or a whole agent."""

    @property
    def problem(self) -> Problem:
        """What its actions mean."""

    @property
    def device(self) -> torch.device:
        """Where it decides."""

    def propose(self, observation: Observation, count: int, generator: torch.Generator) -> Tensor:
        """``count`` actions for each state, [B, count, size] in [-1, 1], without exploration noise."""


def make_actor(config: RunConfig, problem: Problem) -> DeterministicActor:
    """The deterministic actor of a configuration."""
    encoder = make_encoder(config.network, problem)
    return DeterministicActor(encoder, problem.layout, config.network.width, config.ddpg.saturation_penalty)


def make_action_explorer(config: RunConfig, problem: Problem) -> AENPNN:
    """AENPNN of a configuration."""
    ddpg, encoder = config.ddpg, make_encoder(config.network, problem)
    return AENPNN(
        encoder, problem.layout, config.network.width, config.action, ddpg.saturation_penalty, ddpg.actor_rate
    )


class Policy(nn.Module):
    """A policy alone.

    :param config: of the network      :param problem: what its actions mean
    :param diffusion: AENPNN, else the deterministic actor
    """

    def __init__(self, config: RunConfig, problem: Problem, diffusion: bool):
        super().__init__()
        self.config, self.problem = config, problem
        self.autocast_type: torch.dtype | None = None
        self.network = "aenpnn" if diffusion else "actor"
        self.add_module(self.network, (make_action_explorer if diffusion else make_actor)(config, problem))

    @property
    def device(self) -> torch.device:
        """Where it decides."""
        return next(self.parameters()).device

    @property
    def policy(self) -> DeterministicActor | AENPNN:
        """The network that decides."""
        return getattr(self, self.network)

    @torch.no_grad()
    def propose(self, observation: Observation, count: int, generator: torch.Generator) -> Tensor:
        """``count`` actions for each state, [B, count, size] in [-1, 1]."""
        enabled = self.autocast_type is not None
        with torch.autocast(self.device.type, dtype=self.autocast_type, enabled=enabled):
            return self.policy.sample(observation, count, generator).tanh()

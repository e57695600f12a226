"""Reward cases: what the agent learns from the measured utility. To add one, write a function and a line in CASES."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from d2rl.common.errors import ConfigError
from d2rl.problems.base import Observation

LEAST_UNIT = 1e-2  # of a reward that hardly varies at first


@dataclass(frozen=True)
class Case:
    """How a reward is made.

    :param reward: (utility [B, M, K], observation) -> [B, M, K] or [B, M, 1], in the unit of the utility
    :param per_entity: whether it is one reward for each entity, else one for the state
    """

    reward: Callable[[Tensor, Observation], Tensor]
    per_entity: bool


def raw_reward(utility: Tensor, observation: Observation) -> Tensor:
    """Case ``raw``: the weighted sum of the utilities, [B, M, 1]."""
    return (utility * observation.weights.unsqueeze(1)).sum(-1, keepdim=True)


def designed_reward(utility: Tensor, observation: Observation) -> Tensor:
    """Case ``designed``: each entity's utility beyond the baseline on the same state, [B, M, K]."""
    return utility - observation.baseline.unsqueeze(1)


def each_reward(utility: Tensor, observation: Observation) -> Tensor:
    """Case ``each``: the utility of each entity, [B, M, K]."""
    return utility


CASES = {
    "raw": Case(raw_reward, per_entity=False),
    "designed": Case(designed_reward, per_entity=True),
    "each": Case(each_reward, per_entity=True),
}


def reward_case(name: str) -> Case:
    """The case of this name.

    :raises ConfigError: there is none
    """
    if name not in CASES:
        raise ConfigError(f"reward.case={name} is unknown; choose one of {', '.join(CASES)}.")
    return CASES[name]


def level_and_unit(reward: Tensor, per_entity: bool) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of rewards [B, M, K]: of each entity [K], or of all numbers []."""
    over = (0, 1) if per_entity else tuple(range(reward.ndim))
    return reward.mean(over), reward.std(over).clamp_min(LEAST_UNIT)


def to_scalar(reward: Tensor, weights: Tensor) -> Tensor:
    """What rewards of either shape say of a decision: [B, M], those of entities weighted by priority [B, K]."""
    return reward.squeeze(-1) if reward.shape[-1] == 1 else (reward * weights.unsqueeze(1)).sum(-1)

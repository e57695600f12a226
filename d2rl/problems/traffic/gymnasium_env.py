"""The cell with queues for Gymnasium; docs/traffic.md has the tables."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from d2rl.common.errors import ConfigError
from d2rl.config.defaults import FullDuplexConfig
from d2rl.config.load import from_keywords
from d2rl.problems.base import Observation, Simulation
from d2rl.problems.full_duplex.gymnasium_env import (
    EDGE_BOUNDS,
    ENDLESS,
    NODE_BOUNDS,
    FullDuplexGymEnv,
    FullDuplexVectorEnv,
    scenario_of,
)
from d2rl.problems.traffic.checks import check_traffic
from d2rl.problems.traffic.problem import TrafficProblem
from d2rl.problems.traffic.settings import TrafficConfig
from d2rl.problems.traffic.simulator import TrafficState

USUAL = {"episode_length": 120, "head": "switching"}  # where nothing else is asked for, as in conf/traffic.yaml
UNIT, LONG = (0.0, 1.0), (0.0, 1e4)  # of logarithms, and of rates in 10 bit/s/Hz
QUEUE_BOUNDS = (UNIT, UNIT, LONG, LONG, (0.0, 4.0), LONG, LONG, UNIT, LONG)


def flat_features(observation: Observation) -> Tensor:
    """Nodes link by link, then edges row by row, [B, 16 K + 4 K^2]."""
    return torch.cat([observation.nodes.flatten(1), observation.edges.flatten(1)], dim=-1)


class World(Simulation[TrafficState]):
    """Cells with queues that can be begun again."""

    def reset(self) -> None:
        """Drop every cell again."""
        self.state = self.problem.reset(self.batch, self.generator)


class TrafficVectorEnv(FullDuplexVectorEnv):
    """Cells with queues side by side; their episodes begin and end together.

    An observation [B, 16 K + 4 K^2] holds nodes link by link, then edges row by row; the reward is the sum of the
    links' utilities over ``reward_scale``; info has ``backlog``, ``served`` and ``dropped`` of every link [K].

    Example::

        env = gymnasium.make_vec("d2rl/Traffic-v0", num_envs=64, load=0.5)

    :param options: fields of :class:`TrafficConfig` and of the scenario; the others as of
        :class:`FullDuplexVectorEnv`, but ``wmmse``
    """

    def _configured(self, options: dict[str, Any]) -> tuple[TrafficConfig, FullDuplexConfig]:
        if self.wmmse:
            raise ConfigError("wmmse=True is for d2rl/FullDuplex-v0; leave it out.")
        own = {field.name for field in fields(TrafficConfig)}
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}
        scenario = scenario_of(USUAL | {k: v for k, v in plain.items() if k not in own})
        traffic = from_keywords({k: v for k, v in plain.items() if k in own}, TrafficConfig)
        check_traffic(traffic, scenario)
        return traffic, scenario

    def _spaces(self) -> tuple[spaces.Box, spaces.Box]:
        self.problem = TrafficProblem(self.config, replace(self.scenario, episode_length=ENDLESS))
        links = self.problem.layout.entities
        node, edge = np.tile(NODE_BOUNDS + QUEUE_BOUNDS, (links, 1)), np.tile(EDGE_BOUNDS, (links * links, 1))
        low, high = np.concatenate([node, edge]).T.astype(np.float32)
        return spaces.Box(low, high, dtype=np.float32), spaces.Box(-1.0, 1.0, (self.problem.layout.size,), np.float32)

    def _begun(self, seed: int) -> World:
        return World(self.problem, self.num_envs, seed, self.device)

    def _features(self, state: TrafficState) -> Tensor:
        return flat_features(self.problem.observe(state))

    @torch.no_grad()
    def _slot(self, action: Tensor) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        decision = self.problem.decode(self.problem.observe(self.cells.state), action.unsqueeze(1))
        step = self.cells.step(decision)
        record, rewards = step.record, step.utility.double().sum((1, 2)) / self.reward_scale
        told = {"backlog": record.backlog, "served": record.delays.sum(-1), "dropped": record.dropped}
        return rewards.cpu().numpy(), {name: one.cpu().numpy() for name, one in told.items()}


class TrafficGymEnv(FullDuplexGymEnv):
    """One cell with queues.

    Example::

        env = gymnasium.make("d2rl/Traffic-v0", load=1.2, downlink_deadline=5)

    :param options: as of :class:`TrafficVectorEnv`
    """

    several = TrafficVectorEnv

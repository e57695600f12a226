"""Batched environments of the full-duplex cell; importing them registers ``d2rl/FullDuplex-v0`` and
``d2rl/Traffic-v0`` with Gymnasium."""

import gymnasium

from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.full_duplex.env import FullDuplexEnv

gymnasium.register(
    "d2rl/FullDuplex-v0",
    entry_point="d2rl.problems.full_duplex.gymnasium_env:FullDuplexGymEnv",
    vector_entry_point="d2rl.problems.full_duplex.gymnasium_env:FullDuplexVectorEnv",
)
gymnasium.register(
    "d2rl/Traffic-v0",
    entry_point="d2rl.problems.traffic.gymnasium_env:TrafficGymEnv",
    vector_entry_point="d2rl.problems.traffic.gymnasium_env:TrafficVectorEnv",
)

__all__ = ["FullDuplexConfig", "FullDuplexEnv"]

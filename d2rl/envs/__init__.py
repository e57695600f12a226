"""Batched environments of the full-duplex cell; importing them registers ``d2rl/FullDuplex-v0`` with Gymnasium."""

import gymnasium

from d2rl.config import FullDuplexConfig
from d2rl.envs.full_duplex import (
    CellState,
    FullDuplexEnv,
    Positions,
    decided_rates,
    evaluation_drops,
    evaluation_states,
    rates_of,
    steering,
    stream,
)

gymnasium.register(
    "d2rl/FullDuplex-v0",
    entry_point="d2rl.envs.gym:FullDuplexGymEnv",
    vector_entry_point="d2rl.envs.gym:FullDuplexVectorEnv",
)

__all__ = [
    "CellState",
    "FullDuplexConfig",
    "FullDuplexEnv",
    "Positions",
    "decided_rates",
    "evaluation_drops",
    "evaluation_states",
    "rates_of",
    "steering",
    "stream",
]

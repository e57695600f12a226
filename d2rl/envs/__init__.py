"""Batched environments of the full-duplex cell."""

from d2rl.config import FullDuplexConfig
from d2rl.envs.full_duplex import CellState, FullDuplexEnv, decided_rates, evaluation_states, stream

__all__ = ["CellState", "FullDuplexConfig", "FullDuplexEnv", "decided_rates", "evaluation_states", "stream"]

"""The outer module, under its stable name; it is defined in :mod:`d2rl.algorithm.agent`."""

from d2rl.algorithm.agent import D2RL

__all__ = ["D2RL"]

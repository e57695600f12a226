"""The three diffusion explorers; none knows of the others."""

from d2rl.algorithm.explorers.action import AENPNN
from d2rl.algorithm.explorers.reward import RENPNN
from d2rl.algorithm.explorers.state import SENPNN

__all__ = ["AENPNN", "RENPNN", "SENPNN"]

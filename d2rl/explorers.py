"""The three explorers, under their stable name; they are defined in :mod:`d2rl.algorithm.explorers`."""

from d2rl.algorithm.explorers import AENPNN, RENPNN, SENPNN

__all__ = ["AENPNN", "RENPNN", "SENPNN"]

"""Callbacks steer the agent; they do not compute."""

from d2rl.callbacks.chi import ChiSchedule
from d2rl.callbacks.evaluation import PolicyEvaluation
from d2rl.callbacks.gpu_time import GpuTimeProfiler
from d2rl.callbacks.guard import RewardGuard
from d2rl.callbacks.interruption import KeptCheckpoint, RunKeeper, SaveAndStop
from d2rl.callbacks.plausibility import StatePlausibility
from d2rl.callbacks.precision import MixedPrecision
from d2rl.callbacks.progress import TrainingProgress
from d2rl.callbacks.stages import StagedIntegration

__all__ = [
    "ChiSchedule",
    "GpuTimeProfiler",
    "KeptCheckpoint",
    "MixedPrecision",
    "PolicyEvaluation",
    "RewardGuard",
    "RunKeeper",
    "SaveAndStop",
    "StagedIntegration",
    "StatePlausibility",
    "TrainingProgress",
]

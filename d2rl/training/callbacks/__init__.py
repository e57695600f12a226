"""Callbacks steer the agent; they do not compute."""

from d2rl.training.callbacks.chi import ChiSchedule
from d2rl.training.callbacks.evaluation import PolicyEvaluation
from d2rl.training.callbacks.gpu_time import GpuTimeProfiler
from d2rl.training.callbacks.guard import RewardGuard
from d2rl.training.callbacks.interruption import KeptCheckpoint, RunKeeper, SaveAndStop
from d2rl.training.callbacks.plausibility import StatePlausibility
from d2rl.training.callbacks.precision import MixedPrecision
from d2rl.training.callbacks.progress import TrainingProgress
from d2rl.training.callbacks.stages import StagedIntegration

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

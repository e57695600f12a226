"""Losses whose operators are fused into kernels of their own: ``trainer.compile``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from d2rl.common.errors import ConfigError, first_line

if TYPE_CHECKING:
    from d2rl.algorithm.agent import D2RL


def compile_losses(agent: D2RL) -> None:
    """Let ``torch.compile`` make kernels of each loss when it is first asked for, so of a later stage when it begins.

    Functions are compiled and not modules: weights keep their names in checkpoints. PyTorch compiles no draw of a
    generator, so that random numbers are drawn between the compiled parts and are those of plain losses.
    """
    owners: list[tuple[Any, str]] = [(agent, "critic_error")]
    for explorer in (agent.actor, agent.aenpnn, agent.renpnn, agent.senpnn):
        owners += [(explorer, name) for name in ("loss", "loss_of_sums") if hasattr(explorer, name)]
    for owner, name in owners:
        setattr(owner, name, torch.compile(getattr(owner, name), dynamic=False))


def check_compiler(device: torch.device) -> None:
    """Compile something small.

    :raises ConfigError: there is no compiler for the device
    """
    try:
        torch.compile(_trial)(torch.ones(8, device=device))
    except Exception as error:  # of whatever kind: Inductor, Triton and the compiler have their own
        raise ConfigError(
            f"trainer.compile=true needs a {'C++ compiler' if device.type == 'cpu' else 'working Triton'}, and "
            f"torch.compile fails here: {first_line(error).rstrip('.')}; install one (CXX names a C++ compiler that is "
            "not on the PATH), or set trainer.compile=false, which gives the same training."
        ) from None


def _trial(numbers: Tensor) -> Tensor:
    return numbers.sin() + 1

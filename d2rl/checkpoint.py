"""Checkpoints are data: they are read without running any code they may carry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from d2rl.config import Config
from d2rl.errors import CheckpointError
from d2rl.settings import from_mapping


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Content of a checkpoint file, on the CPU.

    :raises CheckpointError: a file that is missing, damaged, carries code, or is not one of ours
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist.") from None
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read, it is damaged or not a checkpoint ({reason}); give another one."
        ) from None
    ours = content.get("d2rl") if isinstance(content, dict) else None
    if not isinstance(ours, dict) or "config" not in ours or "state_dict" not in content:
        raise CheckpointError(f"{path} is not a checkpoint of d2rl; give one written by train.py.")
    return content


def config_of(checkpoint: dict[str, Any]) -> Config:
    """The configuration that a checkpoint carries."""
    return from_mapping(checkpoint["d2rl"]["config"])

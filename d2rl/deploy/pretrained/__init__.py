"""Policies that ship: a folder of weights, configuration and evaluation, read without running any code.

``policy.safetensors`` holds the weights that decisions need and nothing else, ``config.yaml`` how the policy was
made, ``eval.json`` what it reached. ``python -m d2rl.pretrained ckpt=PATH out=DIR`` makes such a folder of a
checkpoint; ``ckpt=DIR`` uses it, ``ckpt=pretrained`` the one of ``conf=best`` that comes with the package,
``ckpt=pretrained/any_load`` the one that has seen many loads, ``ckpt=pretrained/traffic`` that for queues, and
``ckpt=pretrained/traffic_any_load`` that for queues of 2 to 12 users in each direction.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from d2rl.algorithm.ddpg import DeterministicActor
from d2rl.algorithm.policy import Policy
from d2rl.common.errors import CheckpointError, first_line, meant
from d2rl.common.files import write_bytes, write_json, write_text
from d2rl.config.defaults import RunConfig
from d2rl.config.load import to_yaml
from d2rl.problems import load_config

NAME = "pretrained"  # what ckpt= calls the shipped folder, and begins the names of all of them with
SHIPPED = Path(__file__).parent / "best"
WEIGHTS, CONFIG, REPORT = "policy.safetensors", "config.yaml", "eval.json"
FORMAT = "d2rl policy 1"


def load_policy(given: str | Path, overrides: Sequence[str] = ()) -> tuple[Policy, Path]:
    """A policy that is ready to decide, and the file that it came from; builds no simulator, replay or critic.

    :param given: a checkpoint, a run directory, a policy folder, ``pretrained`` or ``pretrained/NAME``
    :param overrides: ``key=value`` over the configuration that it carries
    :raises CheckpointError: it cannot be read, or does not fit the configuration
    """
    folder = policy_folder(given)
    if folder is not None:
        return _from_folder(folder, overrides), folder / WEIGHTS
    # reading a training's checkpoint needs Lightning, which takes seconds to import
    from d2rl.training.checkpoint import open_checkpoint

    path, checkpoint, made_with = open_checkpoint(str(given), "best")
    prefix = "aenpnn." if checkpoint["d2rl"]["stages"]["action"] else "actor."
    weights = {name: tensor for name, tensor in checkpoint["state_dict"].items() if name.startswith(prefix)}
    config = load_config(overrides, base=asdict(made_with))
    return Policy.of(config, weights, made_with, str(path)), path


def policy_folder(given: str | Path) -> Path | None:
    """The policy folder that ``ckpt=`` means, None if it means a checkpoint.

    :raises CheckpointError: nothing of that name, and nearly that of one that ships
    """
    if str(given) == NAME:
        return SHIPPED
    if str(given).startswith(f"{NAME}/") and (SHIPPED.parent / Path(given).name / WEIGHTS).is_file():
        return SHIPPED.parent / Path(given).name
    path = Path(os.path.expanduser(given))
    if path.suffix == ".safetensors":
        return path.parent
    names = sorted({NAME, *(f"{NAME}/{one.parent.name}" for one in SHIPPED.parent.glob(f"*/{WEIGHTS}"))})
    if not path.exists() and (near := meant(str(given), names, 0.85)):
        raise CheckpointError(f"{given} does not exist.{near} Those that ship are {', '.join(names)}.")
    return path if (path / WEIGHTS).is_file() else None


def save_policy(policy: Any, report: Mapping[str, Any], folder: str | Path) -> Path:
    """Write the weights that decisions need, the configuration and an evaluation into a folder.

    :param policy: a :class:`Policy` or an agent
    :param report: content of eval.json
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    prefix = "actor." if isinstance(policy.policy, DeterministicActor) else "aenpnn."
    weights = {name: t.cpu().contiguous() for name, t in policy.state_dict().items() if name.startswith(prefix)}
    metadata = {"format": FORMAT, "sha256": _digest(weights)}
    write_bytes(folder / WEIGHTS, safetensors.torch.save(weights, metadata))
    write_text(folder / CONFIG, to_yaml(replace(policy.config, run_dir=None, resume=None, initial=None)))
    write_json(folder / REPORT, report)
    return folder / WEIGHTS


def _from_folder(folder: Path, overrides: Sequence[str]) -> Policy:
    path = folder / WEIGHTS
    weights = _read(path)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{path} cannot be used: the {CONFIG} beside it is missing.")
    made_with = load_config([f"conf={folder / CONFIG}"])
    if reason := _mismatch(weights, made_with):
        raise CheckpointError(f"{path} does not fit the {CONFIG} beside it: {reason}. Take both from the same place.")
    return Policy.of(load_config(overrides, base=asdict(made_with)), weights, made_with, str(path))


def _read(path: Path) -> dict[str, Tensor]:
    """The weights of a file that is whole."""
    damaged = f"{path} cannot be read, it is damaged or not a policy ({{}}); give another one."
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist.") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(damaged.format(first_line(error))) from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(damaged.format(f"its format is {metadata.get('format')!r}, not {FORMAT!r}"))
    if metadata.get("sha256") != _digest(weights):
        raise CheckpointError(damaged.format("its checksum is wrong"))
    if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
        raise CheckpointError(damaged.format("it holds NaN or infinite weights"))
    return weights


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _mismatch(weights: Mapping[str, Tensor], config: RunConfig) -> str | None:
    """The first thing in which weights differ from those of the policy that a configuration describes."""
    expected = Policy(config, any(name.startswith("aenpnn.") for name in weights)).state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} is none of its weights"
        found, wanted = ((tuple(t.shape), t.dtype) for t in (weights[name], expected[name]))
        if found != wanted:
            return f"{name} is {found[0]} of {found[1]} instead of {wanted[0]} of {wanted[1]}"
    return None

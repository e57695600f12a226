"""Search spaces of d2rl-tune: a YAML in conf/tune/ that says what each key may become."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2rl.common.errors import ConfigError
from d2rl.config.load import find_yaml, read_yaml, shipped_conf
from d2rl.config.schema import Leaf, unknown

PLACES = (Path("conf/tune"), shipped_conf() / "tune")
FORM = "{low: 1e-4, high: 1e-2, log: true} or {choices: [16, 32]}"
KEYS = {"low", "high", "log", "choices"}

Space = dict[str, dict[str, Any]]  # key of the configuration: what Optuna's suggest_* takes


def read_space(name: str, known: Mapping[str, Leaf]) -> Space:
    """The search space of this name, or of the file at this path.

    :param known: keys of the configuration that is tuned
    :raises ConfigError: there is none, or it names a key or a value that cannot be
    """
    path = find_yaml(name, PLACES, f"space={name}")
    content = read_yaml(path)
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path} must hold lines such as ddpg.actor_rate: {FORM}.")
    return {str(key): _range(f"{path}: {key}", str(key), value, known) for key, value in content.items()}


def _range(where: str, key: str, given: Any, known: Mapping[str, Leaf]) -> dict[str, Any]:
    if key not in known:
        raise ConfigError(f"{where.partition(':')[0]}: {unknown(key, known)}")
    form = f"{where} must be {FORM}"
    if not isinstance(given, dict) or not set(given) <= KEYS or ("choices" in given) == ("low" in given):
        raise ConfigError(f"{form}.")
    leaf = known[key]
    if "choices" in given:
        if not isinstance(given["choices"], list) or not given["choices"]:
            raise ConfigError(f"{form}: choices is a list.")
        return {"choices": [leaf.convert(one, f"{where}: ") for one in given["choices"]]}
    if leaf.kind not in (int, float) or "high" not in given:
        raise ConfigError(f"{form}; low and high are for numbers.")
    low, high = (leaf.convert(given[name], f"{where}.{name}: ") for name in ("low", "high"))
    log = str(given.get("log", "false")).lower() == "true"
    if low >= high or (log and low <= 0):
        raise ConfigError(f"{where}: low ({low:g}) must be below high ({high:g}){', and above 0 with log' * log}.")
    return {"low": low, "high": high, "log": log}

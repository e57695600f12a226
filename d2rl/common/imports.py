"""Parts that are named in a configuration."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from d2rl.common.errors import ConfigError, placed


def named_class(name: str, known: Mapping[str, Any], key: str) -> Any:
    """The class of this name among the known ones, or the one that MODULE:CLASS names.

    :param known: name -> class, or the text MODULE:CLASS
    :param key: that asks for it, for messages
    :raises ConfigError: there is none, or it cannot be imported
    """
    found = known.get(name, name)
    if not isinstance(found, str):
        return found
    module, colon, attribute = found.partition(":")
    if not colon:
        raise ConfigError(f"{key}={name} is unknown; choose one of {', '.join(known)}, or give MODULE:CLASS.")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key}={name} cannot be used: {error}.") from None
    except Exception as error:  # a stranger's code may raise anything
        raise ConfigError(f"{key}={name} cannot be used: {placed(error)}.") from None

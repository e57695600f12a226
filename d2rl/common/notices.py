"""What a person should know, without the place in the program that says it."""

from __future__ import annotations

import logging
from functools import lru_cache


def notice(text: str) -> None:
    """Warn a person."""
    logging.getLogger(__name__).warning(text)


@lru_cache(maxsize=32)
def notice_once(text: str) -> None:
    """Warn a person, once in a process."""
    notice(text)

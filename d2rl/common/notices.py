"""What a person should know, said once."""

from __future__ import annotations

import logging
from functools import lru_cache


@lru_cache(maxsize=32)
def notice_once(text: str) -> None:
    """Warn a person, once in a process."""
    logging.getLogger(__name__).warning(text)

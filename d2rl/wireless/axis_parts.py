"""A part of an axis: what brackets behind its letter say."""

from __future__ import annotations


def bracketed(text: str) -> slice:
    """What Python's brackets take, an index as a slice of one.

    :raises ValueError: neither an index nor a slice with a step of 1 or more
    """
    if ":" not in text:
        return slice(int(text), int(text) + 1 or None)
    numbers = [int(one) if one.strip() else None for one in text.split(":")]
    if len(numbers) > 3 or (len(numbers) == 3 and numbers[2] is not None and numbers[2] < 1):
        raise ValueError(text)
    return slice(*numbers)


def positions(numbers: range) -> slice:
    """The slice that takes these places of an axis, which count upwards."""
    return slice(numbers.start, numbers.stop, numbers.step)

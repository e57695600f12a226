"""The keys of a dataclass tree: type, range, meaning, what a value becomes and which key is nearest.

Nothing here knows a key or a default: everything is read from the tree, see :mod:`d2rl.config.defaults`.
"""

from __future__ import annotations

import difflib
import math
import re
import shutil
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from d2rl.common.errors import ConfigError, meant

BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
WIDEST_DEFAULT = 16  # of the column of --help, before it wraps
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
LIMITS = {"low": "at least", "above": "above", "high": "at most", "below": "below"}


@dataclass(frozen=True)
class Leaf:
    """One key that takes a value."""

    key: str
    kind: Any  # type of the value, without None
    optional: bool
    value: Any
    metadata: Mapping[str, Any]

    @property
    def range(self) -> str:
        """What the value may be, beyond its type."""
        if choices := self.metadata.get("choices"):
            return f"one of {', '.join(choices)}"
        word = f", or {self.word}" if self.word else ""
        given = ((words, self.metadata.get(name)) for name, words in LIMITS.items())
        return " and ".join(f"{words} {limit:g}" for words, limit in given if limit is not None) + word

    @property
    def word(self) -> str | None:
        """What a number may be instead."""
        return self.metadata.get("word")

    def convert(self, value: Any, origin: str = "") -> Any:
        """The value as the field's type. :raises ConfigError: wrong type or out of range"""
        result, choices = self._typed(value), self.metadata.get("choices")
        if result is not NotImplemented and self._within(result):
            return result
        wanted = self.range if choices else f"{KINDS.get(self.kind, self.kind)} {self.range}".strip()
        wanted += ", or null" if self.optional else ""
        near = meant(str(value), choices or (), 0.3)
        raise ConfigError(f"{origin}{self.key} cannot be {show(value, self.kind)}; it must be {wanted}.{near}")

    def _typed(self, value: Any) -> Any:
        """The value converted, or NotImplemented. Numbers of a YAML file arrive as text, see :mod:`.load`."""
        if value is None:
            return None if self.optional else NotImplemented
        if self.word is not None and value == self.word:
            return value
        if self.kind is bool:
            return value if isinstance(value, bool) else BOOLEANS.get(str(value).lower(), NotImplemented)
        if self.kind in (int, float, str):
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                return NotImplemented
            return self._number(value) if self.kind in (int, float) else self._text(str(value))
        if typing.get_origin(self.kind) in (list, tuple) and isinstance(value, list | tuple):
            item = replace(self, kind=typing.get_args(self.kind)[0], optional=False)
            return [replace(item, key=f"{self.key}[{n}]").convert(one) for n, one in enumerate(value)]
        return NotImplemented if typing.get_origin(self.kind) in (list, tuple) else value  # others: OmegaConf decides

    def _text(self, value: str) -> Any:
        return value if value.strip() not in ("", "???") and "\0" not in value else NotImplemented  # ???: no value yet

    def _number(self, value: str | int | float) -> Any:
        try:
            number = float(value)
            if self.kind is float:
                return number if math.isfinite(number) else NotImplemented
            if not number.is_integer() or abs(number) >= 2**63:
                return NotImplemented
            return int(number) if abs(number) < 2**53 else int(value)  # 1e3 is a whole number
        except (ValueError, OverflowError):
            return NotImplemented

    def _within(self, value: Any) -> bool:
        choices = self.metadata.get("choices")
        if value is None or value == self.word or isinstance(value, bool | list) or (choices and value in choices):
            return True
        low, above, high, below = (self.metadata.get(name) for name in LIMITS)
        return not choices and not (
            (low is not None and value < low)
            or (above is not None and value <= above)
            or (high is not None and value > high)
            or (below is not None and value >= below)
        )


def leaves(schema: Any, prefix: str = "") -> dict[str, Leaf]:
    """Every key of a dataclass tree (a class or an instance), in order, with its value."""
    instance = schema() if isinstance(schema, type) else schema
    hints = typing.get_type_hints(type(instance))
    found: dict[str, Leaf] = {}
    for field in fields(instance):
        key, value, kind = f"{prefix}{field.name}", getattr(instance, field.name), hints[field.name]
        if is_dataclass(kind):
            found |= leaves(value, f"{key}.")
            continue
        union = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
        left_out = (types.NoneType, str) if field.metadata.get("word") else (types.NoneType,)
        kinds = [one for one in union if one not in left_out]
        found[key] = Leaf(key, kinds[0] if len(kinds) == 1 else Any, len(kinds) < len(union), value, field.metadata)
    return found


def unknown(key: str, known: Mapping[str, Leaf]) -> str:
    """That ``key`` is none, and the nearest that are: by its last part (cell_radius), spelling, what other libraries
    call it (lr) or meaning (tau)."""
    tail = key.rpartition(".")[2].lower()
    tails = {one.rpartition(".")[2] for one in known}
    near = [one for one in known if one.lower() == key.lower()]
    near += [one for one in known if one.rpartition(".")[2] == tail]
    near += [one for one, leaf in known.items() if tail in leaf.metadata.get("also", ())]
    near += difflib.get_close_matches(key.lower(), known, 2, 0.7)
    for close in difflib.get_close_matches(tail, tails, 2, 0.75):
        near += [one for one in known if one.rpartition(".")[2] == close]
    words = re.compile(rf"\b({re.escape(tail)}|{re.escape(tail.replace('_', ' '))})\b", re.IGNORECASE)
    near += [
        one for one, leaf in known.items() if tail[:1].isalpha() and words.search(leaf.metadata.get("meaning", ""))
    ]
    if near:
        return f"{key} is not a key. Did you mean {either(list(dict.fromkeys(near))[:3])}?"
    if not sections(known):
        return f"{key} is not a key. The keys are {', '.join(known)}."
    return f"{key} is not a key. The sections are {', '.join(sections(known))}; --help lists every key."


def sections(known: Iterable[str]) -> list[str]:
    """The keys that hold other keys."""
    found: dict[str, None] = {}
    for key in known:
        parts = key.split(".")[:-1]
        found |= {".".join(parts[: n + 1]): None for n in range(len(parts))}
    return list(found)


def either(words: Iterable[Any]) -> str:
    """a, b or c"""
    *most, last = map(str, words)
    return f"{', '.join(most)} or {last}" if most else last


def show(value: Any, wanted: Any = None) -> str:
    """A value as a person wrote it, cut to one line, with its type if that is not the wanted one."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"{str(value).lower()} (a truth value)"
    text = str(value) if len(str(value)) <= 60 else f"{str(value)[:57]}..."
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return repr(text) if wanted is str else f"{text!r} (text)"
        return text
    names: dict[type, str] = {dict: " (a section)", list: " (a list)", tuple: " (a list)"}
    return text + names.get(type(value), "")


def help_text(schema: Any, shown: Callable[[str], bool] = lambda key: True) -> str:
    """Keys with their default, meaning and range, as a table.

    :param shown: which of them
    """
    # only --help needs it, and a decision need not wait for its import
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    known = {key: leaf for key, leaf in leaves(schema).items() if shown(key)}
    widest = min(WIDEST_DEFAULT, max(len(str(leaf.value)) for leaf in known.values()))
    columns = [Column("key", no_wrap=True, min_width=max(map(len, known))), Column("default", min_width=widest)]
    table = Table(*columns, "meaning", "range")
    table.box = box.SIMPLE_HEAD
    section = None
    for key, leaf in known.items():
        if section not in (None, key.rpartition(".")[0]):
            table.add_section()
        section = key.rpartition(".")[0]
        value = "null" if leaf.value is None else str(leaf.value).lower() if leaf.kind is bool else str(leaf.value)
        wanted = (leaf.range or KINDS.get(leaf.kind, "")) + (", or null" if leaf.optional else "")
        table.add_row(*map(Text, (key, value, leaf.metadata.get("meaning", ""), wanted)))
    console = Console(width=shutil.get_terminal_size((120, 24)).columns)
    with console.capture() as capture:
        console.print(table)
    return capture.get()

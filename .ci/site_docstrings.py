"""Docstrings for the documentation site: roles of reStructuredText become code, its literal blocks Markdown's."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Rewrites every docstring once it has been read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """The docstring in Markdown."""
        if obj.docstring:
            text = ROLE.sub(lambda found: f"`{found[1].lstrip('.')}`", obj.docstring.value)
            text = re.sub(r"(?m)^\.\. math::", "    ", text)
            obj.docstring.value = re.sub(r"(?m)::$", ":", text.replace("``", "`"))

"""What the documentation site does to pages that GitHub shows, too: formulas become MathML, links out of docs/ text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(?ms)^```math\n(.*?)^```$")
INLINE = re.compile(r"\$`(.+?)`\$", re.DOTALL)
OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)#\s]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A page as the site shows it.

    :raises PluginError: a link out of docs/ leads to nothing
    """
    markdown = BLOCK.sub(lambda found: convert(found[1].strip(), display="block"), markdown)
    markdown = INLINE.sub(lambda found: convert(found[1].strip()), markdown)
    place = (ROOT / "docs" / page.file.src_uri).parent

    def told(found: re.Match[str]) -> str:
        target = (place / found[2]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return found[0]
        if not target.exists():
            raise PluginError(f"{page.file.src_uri}: {found[2]} is not there")
        return found[1]

    return OUTSIDE.sub(told, markdown)

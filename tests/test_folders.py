"""The folders are levels: each imports only from those below it, and the algorithm knows no physics."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "d2rl"
LEVELS = (  # as in docs/architecture.md, from the ground up
    *({"common", "config"}, {"wireless"}, {"problems"}, {"algorithm"}, {"runs"}, {"evaluation"}, {"report"}),
    *({"training"}, {"deploy"}, {"benchmark"}, {"commands"}, {"testing"}),
)
FOLDERS = [name for level in LEVELS for name in sorted(level)]
PICTURES = "problems/traffic/figures.py"  # drawn in the colours of the report


def imports(folder: str) -> Iterator[tuple[str, str]]:
    """Each file of a folder, entry points left out, and the modules of d2rl that it imports, inside functions too."""
    for file in sorted((PACKAGE / folder).rglob("*.py")):
        if file.name != "__main__.py":
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                yield from ((str(file.relative_to(PACKAGE)), name) for name in names if name.startswith("d2rl."))


def test_every_folder_has_a_level():
    found = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert found == set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_only_from_its_level_and_below(folder):
    own = next(index for index, level in enumerate(LEVELS) if folder in level)
    allowed = set().union(*LEVELS[: own + 1])
    above = [
        (file, name)
        for file, name in imports(folder)
        if name.split(".")[1] in FOLDERS and name.split(".")[1] not in allowed and file != PICTURES
    ]
    assert above == []


def test_the_algorithm_knows_no_physics_and_no_problem():
    foreign = ("d2rl.wireless", "d2rl.problems.")
    found = [(file, name) for file, name in imports("algorithm") if name.startswith(foreign)]
    assert [pair for pair in found if pair[1] != "d2rl.problems.base"] == []


def test_physics_knows_no_configuration():
    assert [pair for pair in imports("wireless") if pair[1].startswith("d2rl.config")] == []


def test_the_page_on_architecture_tells_these_levels_in_this_order():
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line.split("`")[1].rstrip("/") for line in page.splitlines() if line.startswith("| `") and "/` |" in line]
    assert sorted(rows[:2]) == ["common", "config"]
    assert rows == [*rows[:2], *FOLDERS[2:]]

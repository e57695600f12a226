"""The notebooks: they run from top to bottom, and what they show is what they say."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
OF_A_MACHINE = re.compile(r"/(?:home|root|work|tmp|Users)/")

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def pictures(book: nbformat.NotebookNode) -> int:
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_there_are_first_steps_channels_and_a_problem():
    assert [path.stem for path in NOTEBOOKS] == ["1_first_steps", "2_your_channels", "3_your_problem"]


@each
def test_a_notebook_is_kept_with_its_figures_and_nothing_of_the_machine(path):
    assert pictures(nbformat.read(path, 4)) > 0
    assert OF_A_MACHINE.findall(path.read_text()) == []
    assert path.stat().st_size < 3e5


@pytest.mark.slow
@each
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.read(path, 4)
    NotebookClient(book, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert pictures(book) > 0

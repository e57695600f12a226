"""The mutants fit the present source; ``python tests/faults/mutants.py`` runs the suite against them."""

from __future__ import annotations

import ast
import shutil

import pytest
from mutants import MUTANTS, ROOT, TESTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_has_its_place_and_is_a_program(mutant, tmp_path):
    file = tmp_path / mutant.file
    file.parent.mkdir(parents=True)
    shutil.copy(ROOT / "d2rl" / mutant.file, file)
    before = ast.dump(ast.parse(file.read_text()))
    mutant.apply(tmp_path)
    assert ast.dump(ast.parse(file.read_text())) != before
    assert all((ROOT / file).is_file() for file in TESTS[mutant.file].split())


def test_a_mutant_without_its_place_is_said(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\nx = 1\n")
    for right in ("y", "x"):
        with pytest.raises(ValueError, match=rf"'{right}' stands [02] times in a\.py"):
            Mutant("lost", "a.py", right, "z").apply(tmp_path)

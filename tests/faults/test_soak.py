"""The short form of soak.py: half a minute of a small run."""

from __future__ import annotations

from runs import SMALL
from soak import fifths, report, watch


def test_memory_and_speed_of_a_run_stay_where_they_are(tmp_path):
    sizes, (status, _, err) = watch(tmp_path / "run", list(SMALL), 25)
    assert status == 143, err
    result = report(tmp_path / "run", sizes)
    assert result["updates"] > 200
    assert result["memory_growth"] < 0.05
    assert result["slowdown"] < max(0.25, 4 * result["slowdown_error"])  # other work on the machine shows here


def test_early_and_late_are_the_second_and_the_last_fifth():
    assert fifths(list(range(25))) == (list(range(5, 10)), list(range(20, 25)))

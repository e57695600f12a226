"""What soak.py reports of a run; the runs themselves take long and are made by hand."""

from __future__ import annotations

import pytest
from soak import MIB, fifths, report


def test_early_and_late_are_the_second_and_the_last_fifth():
    assert fifths(list(range(25))) == (list(range(5, 10)), list(range(20, 25)))


def test_memory_and_time_of_an_update_are_compared_early_and_late(tmp_path):
    """Memory grows from 100 to 110 MiB and an update from 2 to 3 ms in the second half."""
    seconds, lines = 0.0, ["charts/updates,time/total"]
    for row in range(101):
        lines.append(f"{10 * row},{seconds}")
        seconds += 10 * (0.002 if row < 50 else 0.003)
    (tmp_path / "metrics.csv").write_text("\n".join(lines))
    found = report(tmp_path, [100 * MIB] * 30 + [110 * MIB] * 30)
    assert found["updates"] == 1000
    assert found["minutes"] == 1
    assert found["memory_growth"] == pytest.approx(0.1)
    assert found["ms_per_update"]["early"] == pytest.approx(2)
    assert found["ms_per_update"]["late"] == pytest.approx(3)
    assert found["slowdown"] == pytest.approx(0.5)
    assert found["slowdown_error"] == pytest.approx(0, abs=1e-6)

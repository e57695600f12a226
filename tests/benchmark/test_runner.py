"""Cells that start from others: in which order they run, and what becomes of them when one fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from d2rl.benchmark.matrix import read_matrix
from d2rl.benchmark.runner import Runner

MATRIX = """
baseline: ddpg
ours: again
variants:
  again: {conf: ddpg, initial: ddpg}
  ddpg: {conf: ddpg}
scenarios: {far: [scenario.cell_radius=200], default: []}
"""


@pytest.fixture
def cells(tmp_path):
    """again-far, ddpg-far and ddpg-default, of which the first needs the last; two seeds."""
    path = tmp_path / "m.yaml"
    path.write_text(MATRIX)
    return read_matrix([f"conf={path}", f"out={tmp_path / 'out'}", "seeds=2"]).cells


class Jobs:
    """Ends every cell after two looks at it, with a status of its name; notes what was done when it began."""

    def __init__(self, slots: int, failing: tuple[str, ...] = ()):
        self.slots, self.failing = slots, failing
        self.begun: dict[str, set[str]] = {}
        self.done: set[str] = set()

    def start(self, cell):
        cell.folder.mkdir(parents=True)
        self.begun[cell.name] = set(self.done)
        jobs, looks = self, iter(range(2))

        class Job:
            def poll(self):
                if next(looks) == 0:
                    return None
                jobs.done.add(cell.name)
                return int(cell.name in jobs.failing)

            def kill(self):
                raise AssertionError("nothing is left to kill")

        return Job()


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_a_cell_begins_after_the_one_it_starts_from(cells, slots):
    jobs = Jobs(slots)
    assert Runner(jobs, Console(quiet=True)).run(cells) == []
    assert len(jobs.begun) == len(cells) == 6
    for cell in cells:
        assert cell.needs is None or cell.needs in jobs.begun[cell.name]


def test_nothing_waits_that_could_run(cells):
    jobs = Jobs(4)
    Runner(jobs, Console(quiet=True)).run(cells)
    assert all(not jobs.begun[cell.name] for cell in cells if cell.needs is None)


def test_a_cell_whose_start_failed_is_reported_and_not_run(cells, tmp_path):
    jobs, said = Jobs(2, failing=("ddpg-default-1",)), Path(tmp_path / "said.txt")
    with open(said, "w") as file:
        failed = Runner(jobs, Console(file=file, width=200)).run(cells)
    assert sorted(cell.name for cell in failed) == ["again-far-1", "ddpg-default-1"]
    assert "again-far-1" not in jobs.begun
    assert "not run: again-far-1, since ddpg-default-1, which it starts from, has failed" in said.read_text()
    again = Jobs(2)
    for cell in failed:
        cell.folder.rename(tmp_path / cell.name) if cell.folder.exists() else None
    assert Runner(again, Console(quiet=True)).run(cells) == []
    assert set(again.begun) == {"again-far-1", "ddpg-default-1"}

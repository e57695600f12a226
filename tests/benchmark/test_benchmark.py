"""A tiny matrix from end to end: interrupted, finished, with one cell lost, failed and mended."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from d2rl.benchmark.command import benchmark_command
from d2rl.benchmark.errors import BenchmarkError
from d2rl.benchmark.launchers import make_launcher
from d2rl.benchmark.matrix import read_matrix
from d2rl.benchmark.runner import Runner, held
from d2rl.common.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
MATRIX = """
baseline: ddpg
ours: full
seeds: 1
jobs: 2
latency: false
set: [trainer.accelerator=cpu, trainer.epochs=1, trainer.updates_per_epoch=4, trainer.updates_per_step=2,
      trainer.num_envs=4, ddpg.batch=4, evaluation.drops=4, network.width=8]
variants:
  ddpg: {conf: ddpg, title: textbook}
  full: []
"""


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """Folder of one benchmark that the tests of this module take further, in order."""
    return tmp_path_factory.mktemp("benchmark")


def arguments(folder: Path) -> list[str]:
    path = folder / "tiny.yaml"
    path.write_text(MATRIX)
    return [f"conf={path}", f"out={folder / 'out'}"]


def trained(folder: Path) -> dict[str, int]:
    """When each cell's result was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("out/cells/*/eval.json")}


def rows(folder: Path) -> dict[str, dict[str, str]]:
    """Lines of cells.csv by variant."""
    with open(folder / "out" / "cells.csv", newline="") as file:
        return {row["variant"]: row for row in csv.DictReader(file)}


def lose_marker(folder: Path, cell: str) -> None:
    """As if the cell had been killed just before its end."""
    (folder / "out" / "cells" / cell / "done.json").unlink()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float = 60.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for child processes in /proc")
def test_an_interruption_ends_the_cells_too(benchmark):
    command = [sys.executable, "-m", "d2rl.benchmark", *arguments(benchmark)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        children = wait_for(lambda: len(found := listed.read_text().split()) == 2 and found)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=60)
    assert (process.returncode, message) == (130, "interrupted\n")
    wait_for(lambda: not any(alive(int(pid)) for pid in children))
    assert trained(benchmark) == {}


def test_a_benchmark_leaves_cells_summary_report_and_figures(benchmark, capsys):
    benchmark_command(arguments(benchmark))
    assert set(trained(benchmark)) == {"ddpg-default-0", "full-default-0"}
    assert "done: ddpg-default-0, gap closed" in capsys.readouterr().out

    out = benchmark / "out"
    summary = json.loads((out / "summary.json").read_text())
    ddpg, full = (summary["variants"][name]["seeds"][0] for name in ("ddpg", "full"))
    for ratio, metric in (("final_sum_rate", "sum_rate"), ("seconds_per_update", "seconds_per_update")):
        assert summary["ratios"][ratio] == pytest.approx(full[metric] / ddpg[metric])
    assert set(summary["ratios"]["total_time_to_gap"]) == {"0.80", "0.90", "0.95"}
    report = (out / "report.md").read_text()
    for figure in ("curves", "sections", "latency"):
        assert (out / f"{figure}.png").stat().st_size > 5000
        assert f"]({figure}.png)" in report
    assert "| textbook |" in report
    row = rows(benchmark)["ddpg"]
    parts = [float(value) for key, value in row.items() if key.startswith("seconds_") and "_per_" not in key and value]
    assert float(row["total_seconds"]) == pytest.approx(sum(parts))


def test_a_failed_cell_is_reported_and_the_rest_stays(benchmark, capsys, monkeypatch):
    before = trained(benchmark)
    lose_marker(benchmark, "ddpg-default-0")
    python = benchmark / "python"
    python.write_text("#!/bin/sh\necho no room on this machine\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(BenchmarkError, match=r"1 of 2 cells failed: ddpg-default-0\. Their logs are .*log.txt"):
        benchmark_command(arguments(benchmark))
    shown = capsys.readouterr().out
    assert "finished already: 1 of 2 cells" in shown
    assert "failed with status 3: ddpg-default-0" in shown
    assert "no room on this machine" in shown  # the end of its log
    assert trained(benchmark) == {"full-default-0": before["full-default-0"]}
    assert {name: row["status"] for name, row in rows(benchmark).items()} == {"full": "done", "ddpg": "failed"}
    assert "**1 of 2 cells failed" in (benchmark / "out" / "report.md").read_text()


def test_the_next_run_trains_only_what_is_missing(benchmark):
    before = trained(benchmark)
    benchmark_command(arguments(benchmark))
    after = trained(benchmark)
    assert set(after) == {"ddpg-default-0", "full-default-0"}
    assert after["full-default-0"] == before["full-default-0"]
    assert {row["status"] for row in rows(benchmark).values()} == {"done"}


def test_nothing_is_started_when_everything_is_finished(benchmark):
    class Refusal:
        slots = 1

        def start(self, cell):
            raise AssertionError(f"{cell.name} was started")

    cells = read_matrix(arguments(benchmark)).cells
    assert Runner(Refusal(), Console(quiet=True)).run(cells) == []


def test_two_benchmarks_cannot_share_a_folder(tmp_path):
    with held(tmp_path), pytest.raises(ConfigError, match="is in use by another benchmark"), held(tmp_path):
        pass


def test_ray_that_is_not_installed_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"launcher=ray needs Ray, which is not installed: pip install"):
        make_launcher(read_matrix([*arguments(tmp_path), "launcher=ray"]))


def test_jobs_are_as_asked_or_one_per_core(tmp_path):
    given = arguments(tmp_path)
    assert make_launcher(read_matrix([*given, "jobs=3"])).slots == 3
    assert make_launcher(read_matrix([*given, "jobs=0"])).slots == len(os.sched_getaffinity(0))

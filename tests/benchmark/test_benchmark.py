"""A tiny matrix from end to end: finished, with one cell lost, failed and mended, and interrupted."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from rich.console import Console

from d2rl.benchmark.command import BenchmarkError, benchmark_command
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


def arguments(folder: Path) -> list[str]:
    path = folder / "tiny.yaml"
    path.write_text(MATRIX)
    return [f"conf={path}", f"out={folder / 'out'}"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """Folder of a benchmark, and what the command said."""
    folder, said = tmp_path_factory.mktemp("benchmark"), io.StringIO()
    with redirect_stdout(said):
        benchmark_command(arguments(folder))
    return folder, said.getvalue()


@pytest.fixture
def benchmark(finished, tmp_path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


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


def wait_for(condition, seconds: float = 600.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for child processes in /proc")
def test_an_interruption_ends_the_cells_too(tmp_path):
    command = [sys.executable, "-m", "d2rl.benchmark", *arguments(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # a program that is started in the background ignores Ctrl-C, and so do its children
    listen = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(command, cwd=ROOT, **pipes, **listen) as process:
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        children = wait_for(lambda: len(found := listed.read_text().split()) == 2 and found)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=600)
    assert (process.returncode, message) == (130, "interrupted\n")
    wait_for(lambda: not any(alive(int(pid)) for pid in children))
    assert trained(tmp_path) == {}


def test_a_benchmark_leaves_cells_summary_report_and_figures(finished):
    benchmark, said = finished
    assert set(trained(benchmark)) == {"ddpg-default-0", "full-default-0"}
    assert "done: ddpg-default-0, gap closed" in said

    out = benchmark / "out"
    summary = json.loads((out / "summary.json").read_text())
    ddpg, full = (summary["variants"][name]["seeds"][0] for name in ("ddpg", "full"))
    for ratio, metric in (("final_sum_rate", "sum_rate"), ("seconds_per_update", "seconds_per_update")):
        assert summary["ratios"][ratio] == pytest.approx(full[metric] / ddpg[metric])
    assert set(summary["ratios"]["total_time_to_gap"]) == {"0.70", "0.80", "0.90"}
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


@pytest.mark.slow
def test_the_next_run_trains_only_what_is_missing(benchmark):
    before = trained(benchmark)
    lose_marker(benchmark, "ddpg-default-0")
    benchmark_command(arguments(benchmark))
    after = trained(benchmark)
    assert set(after) == {"ddpg-default-0", "full-default-0"}
    assert after["full-default-0"] == before["full-default-0"]
    assert after["ddpg-default-0"] != before["ddpg-default-0"]
    assert {row["status"] for row in rows(benchmark).values()} == {"done"}


def test_nothing_is_started_when_everything_is_finished(benchmark):
    class Refusal:
        slots = 1

        def start(self, cell):
            raise AssertionError(f"{cell.name} was started")

    cells = read_matrix(arguments(benchmark)).cells
    assert Runner(Refusal(), Console(quiet=True)).run(cells) == []


def test_two_benchmarks_cannot_share_a_folder(tmp_path):
    with held(tmp_path), pytest.raises(ConfigError, match="is in use by another process"), held(tmp_path):
        pass


def test_ray_that_is_not_installed_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"launcher=ray needs Ray, which is not installed: pip install"):
        make_launcher(read_matrix([*arguments(tmp_path), "launcher=ray"]))


def test_jobs_are_as_asked_or_one_per_core(tmp_path):
    given = arguments(tmp_path)
    assert make_launcher(read_matrix([*given, "jobs=3"])).slots == 3
    assert make_launcher(read_matrix([*given, "jobs=0"])).slots == len(os.sched_getaffinity(0))

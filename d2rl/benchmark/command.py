"""Run a benchmark: ``d2rl-benchmark conf=headline [seeds=5] [seed=0] [out=DIR] [launcher=local|ray]``."""

from __future__ import annotations

import shlex

from rich.console import Console

from d2rl.benchmark.figures import draw_figures
from d2rl.benchmark.launchers import make_launcher
from d2rl.benchmark.matrix import read_matrix
from d2rl.benchmark.report import write_report
from d2rl.benchmark.results import read_result, write_cells
from d2rl.benchmark.runner import Runner, held
from d2rl.benchmark.summary import summarize
from d2rl.common.errors import UserError, counted
from d2rl.common.files import write_json


class BenchmarkError(UserError):
    """Cells that failed; the message names them and says how to go on."""

    kind = "benchmark"


def benchmark_command(arguments: list[str]) -> None:
    """d2rl-benchmark conf=NAME [seeds=5] [seed=0] [out=DIR] [launcher=local|ray] [jobs=N] [section.key=value]

    Trains variants x seeds x scenarios of conf/benchmarks/NAME.yaml side by side and writes cells.csv,
    summary.json, report.md and figures. Cells that are finished are not run again, unless their
    configuration has changed. section.key=value changes every cell, such as trainer.epochs=2.
    """
    matrix, console = read_matrix(arguments), Console()
    with held(matrix.out):
        failed = Runner(make_launcher(matrix), console).run(matrix.cells)
        results = [read_result(cell) for cell in matrix.cells if cell not in failed]
        if results:
            summary = summarize(matrix, results)
            figures = draw_figures(matrix, results, summary)
            write_cells(matrix.out / "cells.csv", results, failed)
            write_json(matrix.out / "summary.json", summary)
            command = shlex.join(["d2rl-benchmark", *arguments])
            write_report(matrix.out / "report.md", matrix, summary, command, figures, failed)
            console.print(f"report: {matrix.out / 'report.md'}", markup=False, soft_wrap=True)
    if failed:
        raise BenchmarkError(
            f"{len(failed)} of {counted(len(matrix.cells), 'cell')} failed: {', '.join(cell.name for cell in failed)}. "
            f"Their logs are {matrix.out}/cells/<cell>/log.txt; the same command runs them again, and only them."
        )

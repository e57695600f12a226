"""Updates and times of a finished benchmark of the paper's setting to parts of the level that its baseline ends at.

    python -m d2rl.benchmark conf=paper seeds=5 latency=false out=DIR
    python benchmarks/paper_table.py DIR [conf=paper]

Updates are compared, since a machine that does other work is at times twice as slow; ``updates.py setting=paper``
measures in turns what one costs. Prints a table for each scenario, one of conf=paper unless another is named, and
writes them to DIR/levels.md.
"""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

from d2rl.benchmark.estimates import Estimate, estimate, interquartile_mean, ratio
from d2rl.benchmark.levels import first_at
from d2rl.benchmark.matrix import Matrix, read_matrix
from d2rl.report.learning_curve import read_metrics

PARTS = (0.6, 0.8, 0.95)  # of the gap that the baseline has closed at its end


def read_cells(folder: Path, scenario: str) -> dict[str, list[dict[str, str]]]:
    """Finished cells of each variant in a scenario, rows of cells.csv."""
    with open(folder / "cells.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "done" and row["scenario"] == scenario]
    return {name: [row for row in rows if row["variant"] == name] for name in dict.fromkeys(r["variant"] for r in rows)}


def metrics_of(folder: Path, row: dict[str, str]) -> Path:
    """metrics.csv of a cell."""
    return folder / "cells" / "{variant}-{scenario}-{seed}".format(**row) / "metrics.csv"


def shown(found: Estimate, digits: int) -> str:
    """A value with its interval; m marks a median."""
    if found.value is None:
        return "-"
    ends = ("∞" if end is None else f"{end:.{digits}f}" for end in found.interval)
    interval = "" if found.interval[0] is None else " [{}, {}]".format(*ends)
    return f"{found.value:.{digits}f}{' m' if found.statistic == 'median' else ''}{interval}"


def levels_table(matrix: Matrix, folder: Path, scenario: str) -> list[str]:
    """Lines of Markdown: first, final and best values, cost, times to the levels and their ratios over the baseline."""
    cells = read_cells(folder, scenario)
    by_time, by_update = (
        {
            name: [read_metrics(metrics_of(folder, row), axis, "eval/gap_closed") for row in rows]
            for name, rows in cells.items()
        }
        for axis in ("time/total", "charts/updates")
    )
    level = float(interquartile_mean([float(row["gap_closed"]) for row in cells[matrix.baseline]]))
    head = ["variant", "seeds", "first", "gap closed", "best", "downlink", "uplink", "s an epoch"]
    for part in PARTS:
        head += [f"updates to {part * level:.3f}", f"over {matrix.variants[matrix.baseline].title}", "s"]
    lines = [f"| {' | '.join(head)} |", f"| --- {'| ---: ' * (len(head) - 1)}|"]
    for name, rows in cells.items():
        best = [max(gap for _, gap in curve) for curve in by_time[name]]
        last = [
            [read_metrics(metrics_of(folder, row), "time/total", f"eval/{way}_rate")[-1][1] for row in rows]
            for way in ("downlink", "uplink")
        ]
        values = [f"{float(interquartile_mean([curve[0][1] for curve in by_time[name]])):.3f}"]
        values += [shown(estimate([float(row["gap_closed"]) for row in rows]), 3), shown(estimate(best), 3)]
        values += [f"{float(interquartile_mean(rates)):.1f}" for rates in last]
        values += [f"{float(interquartile_mean([float(row['seconds_per_epoch']) for row in rows])):.2f}"]
        for part in PARTS:
            seconds, ours, theirs = (
                [first_at(curve, part * level) for curve in curves]
                for curves in (by_time[name], by_update[name], by_update[matrix.baseline])
            )
            over = "1" if name == matrix.baseline else shown(ratio(ours, theirs), 2)
            reached = f"{sum(map(math.isfinite, ours))}/{len(rows)}"
            values += [f"{shown(estimate(ours), 0)}, {reached}", over, shown(estimate(seconds), 1)]
        lines.append(f"| {matrix.variants[name].title} | {len(rows)} | {' | '.join(values)} |")
    return lines


def main(folder: Path, benchmark: str = "conf=paper") -> None:
    """Write and print the tables."""
    matrix, lines = read_matrix([benchmark]), []
    for scenario in matrix.scenarios:
        lines += [f"{scenario}:", "", *levels_table(matrix, folder, scenario), ""]
    (folder / "levels.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

"""What the terminal shows at the end."""

from __future__ import annotations

import math
import shlex
import textwrap
from typing import Any

from rich.console import Console
from rich.table import Table

from d2rl.common.errors import counted
from d2rl.runs.run_directory import RunDirectory

OFFLINE = "offline-run-*"
HEADING = 10  # letters of a line above a column


def results_table(report: dict[str, Any], timing: dict[str, Any] | None = None) -> Table:
    """Policies, best first, as a table.

    :param report: content of eval.json
    :param timing: content of timing.json
    """
    unit, metric, anchors = report.get("unit"), report["metric"], report.get("anchors", ())
    caption = counted(report["drops"], "drop" if anchors else "episode") + (f", in {unit}" if unit else "")
    if anchors:
        caption += "".join(f", {name.replace('_', ' ')} in {one}" for name, one in report.get("units", {}).items())
    if "interference_free_bound" in report:
        caption += f"; no policy can pass {report['interference_free_bound']:.1f}"
    if "least_delay" in report:
        caption += f"; no policy can have a mean delay below {report['least_delay']:.3f} slots"
    if schedule := schedule_line(report):
        caption += f"\n{schedule}"
    if timing:
        caption += f"\ntraining {timing['total_seconds']:.0f} s of {timing['device']}, "
        caption += f"{1e3 * timing['seconds_per_update']:.1f} ms an update"
        if anchors:
            caption += f"\ngap closed {', '.join(f'{t}: {_seconds(s)}' for t, s in timing['time_to_gap'].items())}"
    columns = {metric: _heading(metric)}
    if anchors:
        columns |= {f"{anchors[1]}_ratio": f"share of\n{anchors[1]}", "gap_closed": "gap\nclosed"}
    columns |= {name: _heading(name) for name in report.get("shown", ())} | {"latency_ms": "latency\n(ms)"}
    table = Table(caption=caption)
    table.add_column("policy", no_wrap=True)
    for column in columns.values():
        table.add_column(column, justify="right")
    for name, metrics in sorted(report["policies"].items(), key=lambda item: -item[1][metric]):
        table.add_row(name, *(_number(key, metrics.get(key)) for key in columns))
    return table


def schedule_line(report: dict[str, Any]) -> str | None:
    """What proportional-fair weights bring beside equal ones; None where no schedule was asked for."""
    if (found := report.get("proportional_fair")) is None:
        return None
    names = {"geometric_mean": "geometric mean of the links", "p5": "5 % link", "sum_rate": "sum rate"}
    pairs = [f"{text} {found[f'proportional_fair_{n}']:.2f} ({found[f'equal_{n}']:.2f})" for n, text in names.items()]
    return f"proportional fair over {counted(found['slots'], 'slot')} (equal weights): {', '.join(pairs)}"


def shown(value: float | None, digits: int) -> str:
    """A number as a person reads it; a dash for one that is unknown."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def wandb_notice(console: Console, run: RunDirectory) -> None:
    """Tell how what W&B has kept offline gets online; all parts of a resumed run become one run there."""
    if any(run.wandb.glob(OFFLINE)):
        console.print(f"dashboards: wandb sync {shlex.quote(str(run.wandb))}/{OFFLINE}", markup=False, soft_wrap=True)


def _seconds(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.1f} s"


def _heading(metric: str) -> str:
    return textwrap.fill(metric.replace("_", " "), HEADING)


def _number(metric: str, value: float | None) -> str:
    digits = 3 if metric.endswith("_ratio") or metric in ("gap_closed", "mean_delay") else 2
    return "" if value is None else shown(value, digits)

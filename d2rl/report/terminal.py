"""What the terminal shows at the end."""

from __future__ import annotations

import math
import shlex
from typing import Any

from rich.console import Console
from rich.table import Table

from d2rl.common.errors import counted
from d2rl.runs.run_directory import RunDirectory

OFFLINE = "offline-run-*"


def results_table(report: dict[str, Any], timing: dict[str, Any] | None = None) -> Table:
    """Policies, best first, as a table.

    :param report: content of eval.json
    :param timing: content of timing.json
    """
    drops, bound = counted(report["drops"], "drop"), report["interference_free_bound"]
    caption = f"{drops}, rates in bit/s/Hz; no policy can pass {bound:.1f}"
    if schedule := schedule_line(report):
        caption += f"\n{schedule}"
    if timing:
        reached = ", ".join(f"{t}: {_seconds(s)}" for t, s in timing["time_to_gap"].items())
        caption += (
            f"\ntraining {timing['total_seconds']:.0f} s of {timing['device']}, "
            f"{1e3 * timing['seconds_per_update']:.1f} ms an update; gap closed {reached}"
        )
    columns = [
        "policy",
        "sum rate",
        "share of\nWMMSE",
        "gap\nclosed",
        "downlink",
        "uplink",
        "latency\n(ms)",
    ]
    table = Table(caption=caption)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    ordered = sorted(report["policies"].items(), key=lambda item: -item[1]["weighted_sum_rate"])
    for name, metrics in ordered:
        table.add_row(
            name,
            f"{metrics['weighted_sum_rate']:.2f}",
            shown(metrics["wmmse_ratio"], 3),
            shown(metrics["gap_closed"], 3),
            f"{metrics['downlink_rate']:.2f}",
            f"{metrics['uplink_rate']:.2f}",
            f"{metrics['latency_ms']:.2f}" if "latency_ms" in metrics else "",
        )
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

"""What the terminal shows at the end."""

from __future__ import annotations

import shlex
from typing import Any

from rich.console import Console
from rich.table import Table

from d2rl.runs.run_directory import RunDirectory

OFFLINE = "offline-run-*"


def results_table(report: dict[str, Any], timing: dict[str, Any] | None = None) -> Table:
    """Policies, best first, as a table.

    :param report: content of eval.json
    :param timing: content of timing.json
    """
    caption = f"{report['drops']} drops; no policy can pass {report['interference_free_bound']:.1f} bit/s/Hz"
    if timing:
        reached = ", ".join(f"{t}: {_seconds(s)}" for t, s in timing["time_to_gap"].items())
        caption += (
            f"\ntraining {timing['total_seconds']:.0f} s of {timing['device']}, "
            f"{1e3 * timing['seconds_per_update']:.1f} ms an update; gap closed {reached}"
        )
    columns = [
        "policy",
        "sum rate\n(bit/s/Hz)",
        "share of\nWMMSE",
        "gap\nclosed",
        "downlink",
        "uplink",
        "latency\n(ms)",
    ]
    table = Table(caption=caption)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    ordered = sorted(report["policies"].items(), key=lambda item: -item[1]["weighted_sum_rate"])
    for name, metrics in ordered:
        table.add_row(
            name,
            f"{metrics['weighted_sum_rate']:.2f}",
            f"{metrics['wmmse_ratio']:.3f}",
            f"{metrics['gap_closed']:.3f}",
            f"{metrics['downlink_rate']:.2f}",
            f"{metrics['uplink_rate']:.2f}",
            f"{metrics['latency_ms']:.2f}" if "latency_ms" in metrics else "",
        )
    return table


def wandb_notice(console: Console, run: RunDirectory) -> None:
    """Tell how what W&B has kept offline gets online; all parts of a resumed run become one run there."""
    if any(run.wandb.glob(OFFLINE)):
        console.print(f"dashboards: wandb sync {shlex.quote(str(run.wandb))}/{OFFLINE}", markup=False, soft_wrap=True)


def _seconds(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.1f} s"

"""What the terminal shows at the end."""

from __future__ import annotations

import shlex
from typing import Any

from rich.console import Console
from rich.table import Table

from d2rl.runs.run_directory import RunDirectory

OFFLINE = "offline-run-*"
CELLS = {  # heading: metric and its format
    "sum rate\n(bit/s/Hz)": ("weighted_sum_rate", ".2f"),
    "share of\nWMMSE": ("wmmse_ratio", ".3f"),
    "gap\nclosed": ("gap_closed", ".3f"),
    "downlink": ("downlink_rate", ".2f"),
    "uplink": ("uplink_rate", ".2f"),
    "latency\n(ms)": ("latency_ms", ".2f"),
}
EPISODES = {
    "return": ("return", ".1f"),
    "worst": ("return_worst", ".1f"),
    "best": ("return_best", ".1f"),
    "length\n(steps)": ("episode_length", ".0f"),
    "reached\nthe goal": ("solved_share", ".2f"),
}


def results_table(report: dict[str, Any], timing: dict[str, Any] | None = None) -> Table:
    """Policies, best first, as a table.

    :param report: content of eval.json
    :param timing: content of timing.json
    """
    episodes = report.get("metric") == "return"
    columns, objective = (EPISODES, "return") if episodes else (CELLS, "weighted_sum_rate")
    caption = f"{report['drops']} episodes"
    if not episodes:
        caption = f"{report['drops']} drops; no policy can pass {report['interference_free_bound']:.1f} bit/s/Hz"
    if timing:
        caption += f"\ntraining {timing['total_seconds']:.0f} s of {timing['device']}, "
        caption += f"{1e3 * timing['seconds_per_update']:.1f} ms an update"
        if not episodes:
            caption += f"; gap closed {', '.join(f'{t}: {_seconds(s)}' for t, s in timing['time_to_gap'].items())}"
    table = Table("policy", caption=caption)
    for heading in columns:
        table.add_column(heading, justify="right")
    ordered = sorted(report["policies"].items(), key=lambda item: -item[1][objective])
    for name, metrics in ordered:
        table.add_row(name, *(f"{metrics[key]:{form}}" if key in metrics else "" for key, form in columns.values()))
    return table


def wandb_notice(console: Console, run: RunDirectory) -> None:
    """Tell how what W&B has kept offline gets online; all parts of a resumed run become one run there."""
    if any(run.wandb.glob(OFFLINE)):
        console.print(f"dashboards: wandb sync {shlex.quote(str(run.wandb))}/{OFFLINE}", markup=False, soft_wrap=True)


def _seconds(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.1f} s"

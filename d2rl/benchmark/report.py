"""report.md: what the summary says, as tables that a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2rl.benchmark.figures import BACK_FIGURE, LABELS
from d2rl.benchmark.levels import retraining_table
from d2rl.benchmark.matrix import Cell, Matrix
from d2rl.common.errors import counted
from d2rl.report.terminal import shown

METHOD = """\
Times are seconds of training on the device named above (process time on a CPU, CUDA events on a GPU), without
evaluation. In brackets the 95 % bootstrap interval with the seed as the unit of replication; it is narrow by
construction when seeds are few. Every value is an interquartile mean over seeds: n/4 of them are cut off at either
end, the outermost that stay count in part (weights 1/4, 1, 1/4 for 3 seeds; 0, 3/4, 1, 3/4, 0 for 5). A seed that
never passes a threshold counts as infinite: where that happens the time is the median (marked m) instead, and a dash
when fewer than half of the seeds passed; "4/5" means that 4 of 5 did. A ratio takes the same statistic of both
sides; "< 0.3" compares with the whole training of a baseline that did not get there. The 5 % outage is the 5 %
quantile over drops of the sum rate on the true channels, whatever the decision was made from."""


def write_report(
    path: Path, matrix: Matrix, summary: dict[str, Any], command: str, figures: Sequence[Path], failed: Sequence[Cell]
) -> None:
    """Write report.md beside its figures."""
    config = matrix.config
    lines = [f"# {config.title or matrix.name}", "", f"    {command}", ""]
    lines += [
        f"Device: {summary['device']}; torch {summary['torch']}; {counted(config.seeds, 'seed')} from {config.seed}.",
        "",
    ]
    if failed:
        names = ", ".join(cell.name for cell in failed)
        lines += [f"**{len(failed)} of {counted(len(matrix.cells), 'cell')} failed, left out here: {names}.**", ""]
    for name, scenario in summary["scenarios"].items():
        if len(summary["scenarios"]) > 1:
            lines += [f"## Scenario {name}", ""]
        lines += [*_variants(matrix, scenario), "", *_references(scenario), *_ratios(matrix, scenario), ""]
        lines += [f"![{figure.stem}]({figure.name})" for figure in figures if _shows(figure, name, matrix)]
        lines += [""]
    lines += retraining_table(summary["scenarios"], {name: one.title for name, one in matrix.variants.items()})
    lines += [f"![{BACK_FIGURE}]({BACK_FIGURE}.png)", ""] if any(one.stem == BACK_FIGURE for one in figures) else []
    lines += [METHOD, ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def _variants(matrix: Matrix, scenario: dict[str, Any]) -> list[str]:
    variants = scenario["variants"]
    thresholds = list(next((one["time_to_gap"] for one in variants.values() if one["seeds"]), {}))
    head = ["variant", "sum rate (bit/s/Hz)", "share of WMMSE", "best of 16", "5 % outage", "its best of 16"]
    head += ["ms an update", "s an epoch", "epochs"]
    rows = [head + ["total s"] + [f"s to {threshold}" for threshold in thresholds]]
    for name, one in variants.items():
        if not one["seeds"]:
            continue
        row = [matrix.variants[name].title, _value(one["final"], 2), _value(one["wmmse_ratio"], 3, interval=False)]
        row += [_value(one["best_of_16"], 2, interval=False), _value(one["outage_sum_rate"], 2)]
        row += [_value(one["outage_best_of_16"], 2, interval=False)]
        row += [
            _value(one["seconds_per_update"], 1, 1e3, False),
            _value(one["seconds_per_epoch"], 2, interval=False),
            str(one["epochs"]),
        ]
        row += [_value(one["total_seconds"], 1), *(_time(time) for time in one["time_to_gap"].values())]
        rows.append(row)
    return _table(rows)


def _references(scenario: dict[str, Any]) -> list[str]:
    """Rates of the references, which see the same channel estimates."""
    rates = {name: [one["sum_rate"], one["outage_sum_rate"]] for name, one in scenario["references"].items()}
    known = [
        f"{LABELS[name]} {shown(rates[name][0], 2)} ({shown(rates[name][1], 2)})" for name in LABELS if name in rates
    ]
    return [f"References, sum rate and in brackets its 5 % outage: {', '.join(known)}.", ""] if known else []


def _ratios(matrix: Matrix, scenario: dict[str, Any]) -> list[str]:
    """Every variant over the baseline; the one that is ours in bold."""
    baseline, ours = matrix.baseline, matrix.ours
    thresholds = list(scenario["ratios"]["total_time_to_gap"])
    head = [f"over {matrix.variants[baseline].title}", *(f"time to {one}" for one in thresholds)]
    rows = [[*head, "time of an update", "time of an epoch", "final sum rate"]]
    for name, one in scenario["variants"].items():
        if name == baseline or not one["seeds"]:
            continue
        value, interval, below = (one["over_baseline"][key] for key in ("ratios", "ratio_ci", "ratio_below"))
        time = [part["total_time_to_gap"] for part in (value, interval, below)]
        cells = [matrix.variants[name].title, *(_ratio(*(part[key] for part in time)) for key in thresholds)]
        others = ("seconds_per_update", "seconds_per_epoch", "final_sum_rate")
        cells += [_ratio(value[key], interval[key]) for key in others]
        rows.append([f"**{cell}**" for cell in cells] if name == ours else cells)
    return _table(rows)


def _ratio(value: float | None, interval: Sequence[float | None], below: float | None = None) -> str:
    if value is None:
        return "-" if below is None else f"< {below:.2f}" if below else "0"
    return f"{value:.2f}{_interval(interval, 2)}"


def _time(time: dict[str, Any]) -> str:
    value, mark = (time["iqm"], "") if time["statistic"] == "iqm" else (time["median"], " m")
    text = "-" if value is None else f"{value:.1f}{mark}{_interval(time['ci'], 1)}"
    return f"{text}, {time['reached']}/{time['of']}"


def _value(found: dict[str, Any], digits: int, scale: float = 1.0, interval: bool = True) -> str:
    value = found["iqm"]
    text = shown(None if value is None else value * scale, digits)
    return text + (_interval(found["ci"], digits) if interval else "")


def _interval(interval: Sequence[float | None], digits: int) -> str:
    """A lower bound alone where there is no upper one; nothing where there is neither."""
    low, high = interval
    if low is None:
        return ""
    return f" [{low:.{digits}f}, {'∞' if high is None else f'{high:.{digits}f}'}]"


def _table(rows: list[list[str]]) -> list[str]:
    head, *body = rows
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *body)]


def _shows(figure: Path, scenario: str, matrix: Matrix) -> bool:
    """Whether a figure is of a scenario; its name ends with it for all but the first."""
    suffixes = [f"-{name}" for name in matrix.scenarios[1:]]
    own = [suffix for suffix in suffixes if figure.stem.endswith(suffix)]
    if figure.stem == BACK_FIGURE:  # of all scenarios
        return False
    return own == [f"-{scenario}"] if own else scenario == matrix.scenarios[0]

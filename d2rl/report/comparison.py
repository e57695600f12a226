"""Runs side by side: what they reached and cost, how they came there, and in what their configurations differ."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from d2rl.common.errors import ConfigError, InputError
from d2rl.config.defaults import RunConfig
from d2rl.config.key_use import unused
from d2rl.config.schema import leaves
from d2rl.evaluation.evaluate import AGENT
from d2rl.problems import load_config
from d2rl.report.figures import WIDTH, report_style
from d2rl.report.learning_curve import COLOURS, read_metrics
from d2rl.report.page import Picture, picture, rendered
from d2rl.runs.run_directory import RunDirectory

TEMPLATE = "comparison.html.j2"
OF_THE_PLACE = ("run_dir", "resume", "trainer.progress", "logger.")  # keys that say nothing of how a run was made
LINES = ("-", "--", ":", "-.")  # once the colours are used up
STEPS = "environment_steps"


@dataclass(frozen=True)
class Finished:
    """What a run directory tells.

    :param name: short, and unlike that of the other runs
    :param report: content of eval.json
    :param timing: content of timing.json
    :param values: every key of its configuration
    :param metrics: metrics.csv
    """

    name: str
    report: dict[str, Any]
    timing: dict[str, Any]
    values: dict[str, Any]
    metrics: Path

    @property
    def metric(self) -> str:
        """What it was judged by."""
        return self.report["metric"]


@dataclass(frozen=True)
class Row:
    """A number of every run, and by how much it differs from that of the first.

    :param values: None where a run has none
    :param differences: None likewise, and for the first run
    """

    label: str
    values: list[float | None]
    differences: list[float | None]
    digits: int


def read_runs(paths: Sequence[str | Path]) -> list[Finished]:
    """The runs in these directories.

    :raises InputError: one is no finished run, or they were judged by different metrics
    """
    runs = [_read(Path(path).expanduser(), name) for path, name in zip(paths, _names(paths), strict=True)]
    for run in runs[1:]:
        if run.metric != runs[0].metric:
            raise InputError(
                f"{runs[0].name} is judged by {runs[0].metric} and {run.name} by {run.metric}; compare runs of one "
                "problem."
            )
    return runs


def results(runs: Sequence[Finished]) -> list[Row]:
    """What the policies reached, and what training cost."""
    metrics = [run.report["policies"][AGENT] for run in runs]
    timings = [run.timing for run in runs]
    first = runs[0].report
    names = [runs[0].metric, *(f"{one}_ratio" for one in first.get("anchors", ())[1:]), "gap_closed"]
    names += [*first.get("shown", ()), "rate_p5", "jain", "latency_ms"]
    rows = [_row(name.replace("_", " "), [one.get(name) for one in metrics], 3) for name in dict.fromkeys(names)]
    rows.append(_row("training (s)", [one.get("total_seconds") for one in timings], 1))
    rows.append(_row("updates", [one.get("updates") for one in timings], 0))
    rows.append(_row("ms an update", [_times(1e3, one.get("seconds_per_update")) for one in timings], 2))
    for level in dict.fromkeys(level for one in timings for level in one.get("time_to_gap", {})):
        reached = [one.get("time_to_gap", {}).get(level) for one in timings]
        rows.append(_row(f"to gap closed {level} (s)", reached, 1))
    return [row for row in rows if any(value is not None for value in row.values)]


def differing_keys(runs: Sequence[Finished]) -> list[tuple[str, list[Any]]]:
    """Keys of the configuration that are not alike in all runs, with the value of each run."""
    keys = dict.fromkeys(key for run in runs for key in run.values if not key.startswith(OF_THE_PLACE))
    rows = [(key, [run.values.get(key, "none such") for run in runs]) for key in keys]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values)]


def curves(runs: Sequence[Finished]) -> list[Picture]:
    """The metric over training time, and over environment steps."""
    name = runs[0].metric.replace("_", " ")
    unit = runs[0].report.get("unit")
    label = f"{name} ({unit})" if unit else name
    pictures = []
    for column, axis in (("time/total", "training time (s)"), (STEPS, "environment steps")):
        figure = Figure(figsize=(1.5 * WIDTH, WIDTH), layout="constrained")
        axes = figure.subplots()
        ends = []
        for n, run in enumerate(runs):
            curve = read_metrics(run.metrics, column, f"eval/{run.metric}") if run.metrics.is_file() else []
            if curve:
                style = LINES[n // len(COLOURS) % len(LINES)]
                axes.plot(*zip(*curve, strict=True), style, color=COLOURS[n % len(COLOURS)], label=run.name)
                ends.append(f"{run.name} {curve[-1][1]:.2f}")
        if ends:
            axes.set(xlabel=axis, ylabel=label)
            axes.legend(fontsize=8)
            alt = f"{label} over {axis}. At the end: {', '.join(ends)}."
            pictures.append(picture(figure, alt, f"On the frozen drops, over {axis}."))
    return pictures


def comparison_page(runs: Sequence[Finished]) -> str:
    """The HTML: one file that needs nothing else."""
    with report_style():
        content = {
            "runs": runs,
            "unit": runs[0].report.get("unit"),
            "results": results(runs),
            "curves": curves(runs),
            "differing": differing_keys(runs),
            "same_drops": all(_judged_on(run) == _judged_on(runs[0]) for run in runs),
        }
    return rendered(TEMPLATE, content)


def _judged_on(run: Finished) -> dict[str, Any]:
    """Everything that decides the drops of a run's evaluation."""
    learning = leaves(RunConfig())
    world = {key: value for key, value in run.values.items() if key not in learning and not unused(key, "eval")}
    return {**world, "drops": run.report["drops"], "seed": run.values.get("evaluation.seed")}


def _read(path: Path, name: str) -> Finished:
    run = RunDirectory(path)
    for file in (run.config, run.evaluation):
        if not file.is_file():
            raise InputError(
                f"{path} is no finished run: {file.name} is not there; give run directories, such as runs/NAME."
            )
    try:
        report = json.loads(run.evaluation.read_text(encoding="utf-8"))
        timing = json.loads(run.timing.read_text(encoding="utf-8")) if run.timing.is_file() else {}
        values = {key: leaf.value for key, leaf in leaves(load_config([f"conf={run.config}"])).items()}
        report["policies"][AGENT], report["metric"], report["drops"]
    except (ValueError, KeyError, TypeError, OSError, ConfigError) as error:
        reason = error.args[0] if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        raise InputError(f"{path} cannot be read as a run: {reason}") from None
    return Finished(name, report, timing, values, run.metrics)


def _names(paths: Sequence[str | Path]) -> list[str]:
    """The last parts of the paths, as many as it takes to tell them apart."""
    parts = [Path(path).expanduser().resolve().parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise InputError("the same run is given twice; give different run directories.")


def _row(label: str, values: list[float | None], digits: int) -> Row:
    numbers = [None if value is None or not math.isfinite(value) else float(value) for value in values]
    first = numbers[0]
    differences = [None if first is None or value is None else value - first for value in numbers]
    return Row(label, numbers, [None, *differences[1:]], digits)


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value

"""Delay against load: schedulers and learned policies on the same cells with queues.

    python benchmarks/traffic.py [ckpt=PATH,...] [out=DIR] [loads=0.5,1,1.2] [cells=48] [seed=0] [policies=NAME,...]
        [traffic.KEY=VALUE ...]
    python benchmarks/traffic.py stable=true [...]

Every policy meets the same users, channels and arrivals (common random numbers), those of ``eval.py`` with
``drops=CELLS`` and ``seed``. Intervals are 95 % bootstraps over the cells. An outcome that OUT/outcomes holds is not
computed again. ``stable=true`` seeks the largest load at which the queues of a cell do not grow, by bisection of each
cell's own load.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from d2rl.algorithm.decisions import DecisionRule
from d2rl.common.command_line import run
from d2rl.common.errors import ConfigError
from d2rl.config.defaults import option
from d2rl.config.load import load
from d2rl.config.schema import either
from d2rl.deploy.pretrained import load_policy
from d2rl.evaluation.episodes import EpisodeEvaluation, Episodes
from d2rl.evaluation.evaluate import policy_of
from d2rl.problems import check_config, check_files, load_config, make_problems
from d2rl.problems.base import Simulation, stream
from d2rl.problems.traffic.descent import SLOTS, drift_descent, foresight
from d2rl.problems.traffic.figures import draw_backlogs, draw_waiting
from d2rl.problems.traffic.simulator import Record, TrafficState
from d2rl.report.learning_curve import COLOURS

DRIFT = "drift"  # delays are also given as a share of its
RESAMPLES = 300
LOADS, BISECTIONS = (0.1, 3.3), 6  # where the largest stable load is sought
STEP = (LOADS[1] - LOADS[0]) / 2**BISECTIONS  # to which a load is found
GROWTH = 0.02  # of what arrives, by which backlogs may grow in half an episode and still count as bounded
METRICS = {
    "mean_delay": "mean delay (slots)",
    "delay_p95": "95 % delay (slots)",
    "dropped": "dropped (share of bits)",
    "throughput": "throughput (bit/s/Hz)",
    "jain": "Jain's index",
    "energy_efficiency": "bit/J",
    "short": "below the minimum rate",
}
LABELS = {
    "drift": "drift descent",
    "backlog": "backlog descent",
    "maxweight": "MaxWeight",
    "maxweight_sqrt": "root MaxWeight",
    "proportional_fair": "proportional fair",
    "round_robin": "round robin",
    "m_lwdf": "M-LWDF",
    "edf": "EDF",
    "maxweight_virtual": "MaxWeight, virtual queues",
    "drift_virtual": "drift descent, virtual queues",
    "plan": f"plan, {SLOTS} slots known",
}
EXTRA = ("backlog", "plan")  # no references of eval.py: they take as long as the drift again, or know the future
STYLES = ("o-", "s--", "^--", "v:", "D:", "P-.", "X-.", "*-")
SMALLEST = 1e-3  # slots, lower end of a logarithmic axis

Policy = Callable[[TrafficState], Any]


@dataclass
class TrafficBenchmark:
    """What the command takes, beside keys of the sections traffic and scenario."""

    ckpt: str | None = option(None, "policies with commas: checkpoints, run directories, policy folders")
    out: str = option("runs/traffic", "where it writes")
    loads: str = option("0.5,0.8,1,1.2", "with commas")
    cells: int = option(48, "simulated side by side", low=2)
    seed: int = option(0, "of users, channels and arrivals", low=0)
    stable: bool = option(False, "find each policy's largest stable load instead of its delays")
    policies: str | None = option(
        None, f"schedulers with commas, of {', '.join(LABELS)}; null: all but {' and '.join(EXTRA)}"
    )


def traffic_command(arguments: list[str]) -> None:
    """python benchmarks/traffic.py [ckpt=PATH,...] [out=DIR] [loads=0.5,1,1.2] [cells=48] [seed=0] [policies=NAME,...]

    Runs every policy at every load, also with keys of the sections traffic and scenario; writes traffic.csv,
    traffic.md, delay.png, waiting.png and queues.png.
    """
    own = {field.name for field in fields(TrafficBenchmark)}
    asked = load([one for one in arguments if one.partition("=")[0] in own], TrafficBenchmark)
    keys = [one for one in arguments if one.partition("=")[0] not in own]
    console, out = Console(), Path(asked.out).expanduser()
    learned = {Path(path).name: load_policy(path)[0] for path in asked.ckpt.split(",")} if asked.ckpt else {}
    if asked.stable:
        _write_stable(out, _stable_loads(keys, learned, asked, console))
        return
    results: dict[float, dict[str, Episodes]] = {}
    for level in _loads(asked.loads):
        config = load_config(["conf=traffic", *keys, f"traffic.load={level:g}"])
        check_config(config)
        check_files(config)
        problem: Any = make_problems(config)[0]
        world = asdict(replace(problem.config, load_low=None, load_high=None))  # those are for training
        setting = {"cells": asked.cells, "seed": asked.seed, **world, **asdict(problem.scenario)}
        results[level] = {}
        for name in [*_chosen(asked.policies, problem), *learned]:
            place, outcome = out / "outcomes" / f"{name}-{level:g}.pt", None
            if name not in learned:
                outcome = _stored(place, setting)
            if outcome is None:
                outcome = rollout(problem, _policy(name, learned, problem, asked), asked.cells, asked.seed)
                _store(place, setting, outcome)
            results[level][name] = outcome
            delay = problem.summary(outcome.total)["mean_delay"]
            console.print(f"load {level:g}, {_label(name)}: {delay:.4f} slots", highlight=False)
    rows = summarise(problem, results)
    _write_csv(out / "traffic.csv", rows)
    (out / "traffic.md").write_text(_tables(rows), encoding="utf-8")
    _draw(out, rows, results, problem.waiting)
    console.print(f"written: {out}", markup=False)


def rollout(problem: Any, policy: Policy, cells: int, seed: int) -> Episodes:
    """One episode of each cell."""
    return EpisodeEvaluation(problem, cells, seed).record(policy)


def plan_ahead(problem: Any, cells: int, seed: int) -> Policy:
    """Decisions by :func:`foresight`, told channels and arrivals of the next slots, which no decision changes."""
    future: list[TrafficState] = []

    def silence(state: TrafficState) -> tuple[Tensor, Tensor]:
        future.append(state)
        return torch.zeros_like(state.known.downlink.mT), torch.zeros_like(state.known.uplink[..., 0].real)

    rollout(problem, silence, cells, seed)
    plan: list[Any] = []

    def policy(state: TrafficState) -> Any:
        nonlocal plan
        ahead = future[state.cell.slot : state.cell.slot + SLOTS]
        plan = foresight([one.known for one in ahead], state.queues, [one.arrived for one in ahead[1:]], plan[1:])
        return plan[0]

    return policy


@torch.inference_mode()
def stable_loads(problem: Any, policy: Policy, cells: int, seed: int) -> Tensor:
    """The largest load at which the queues of a cell do not grow, [B], by bisection of each cell's own.

    They grow where the mean backlog of the last quarter of an episode exceeds that of its second quarter by more than
    ``GROWTH`` of what arrived in between.
    """
    low, high = (torch.full((cells,), end) for end in LOADS)
    quarter = problem.slots // 4
    for _ in range(BISECTIONS):
        load = (low + high) / 2
        world: Simulation[TrafficState] = Simulation(problem.endless(), cells, stream(f"evaluation/{seed}"))
        factor = (load / problem.config.load)[:, None]
        sources = world.state.sources
        sources = replace(sources, rate=sources.rate * factor, load=sources.load * factor)
        world.state = replace(world.state, sources=sources)
        backlog = torch.stack([world.step(policy(world.state)).record.backlog.sum(-1) for _ in range(problem.slots)])
        growth = backlog[-quarter:].mean(0) - backlog[quarter : 2 * quarter].mean(0)
        bounded = growth <= GROWTH * sources.rate.sum(-1) * 2 * quarter
        low, high = torch.where(bounded, load, low), torch.where(bounded, high, load)
    return low


def _stable_loads(
    keys: list[str], learned: dict[str, Any], asked: TrafficBenchmark, console: Console
) -> dict[str, Tensor]:
    config = load_config(["conf=traffic", *keys])
    check_config(config)
    check_files(config)
    problem: Any = make_problems(config)[0]
    names = [*_chosen(asked.policies, problem), *learned]
    _check_stable(problem, names)
    found = {}
    for name in names:
        found[name] = stable_loads(problem, _policy(name, learned, problem, asked), asked.cells, asked.seed)
        beyond = int((found[name] > LOADS[1] - 1.5 * STEP).sum() + (found[name] == LOADS[0]).sum())
        tried = f"{beyond} of {len(found[name])} cells are at an end of what is tried, {LOADS[0]:g} to {LOADS[1]:g}"
        ends = f"; {tried}" if beyond else ""
        console.print(f"{_label(name)}: load {float(found[name].mean()):.3f}{ends}", highlight=False)
    return found


def _check_stable(problem: Any, names: list[str]) -> None:
    """Refuse to seek a stable load where queues never grow, or where it would not be that of the policy."""
    bounds = [
        f"traffic.{direction}_{kind}={value}"
        for direction in ("downlink", "uplink")
        for kind in ("deadline", "buffer")
        if (value := getattr(problem.config, f"{direction}_{kind}"))
    ]
    if bounds:
        raise ConfigError(
            f"stable=true seeks the load at which queues begin to grow, and with {bounds[0]} bits are dropped instead; "
            "leave it out, or leave out stable=true to see how many are dropped."
        )
    if "full_buffer" in problem.cells.arrivals.kinds:
        raise ConfigError(
            "stable=true seeks the load at which queues begin to grow, and full buffers have none; set "
            "traffic.arrivals to other kinds."
        )
    if "plan" in names:
        raise ConfigError("stable=true tries many loads, and policies=plan is told what arrives at one; leave it out.")


def _write_stable(out: Path, found: dict[str, Tensor]) -> None:
    """Mean over the cells with its interval, and the difference from the first policy's, paired by cell."""
    out.mkdir(parents=True, exist_ok=True)
    first, base = next(iter(found.items()))
    lines = [
        f"| policy | largest stable load, mean of the cells | median | less {_label(first)} |",
        "|---|---:|---:|---:|",
    ]
    for name, loads in found.items():
        draws = torch.randint(len(loads), (RESAMPLES, len(loads)), generator=torch.Generator().manual_seed(0))
        texts = []
        for values in (loads, loads - base):
            low, high = _interval(values[draws].mean(-1).tolist())
            texts.append(f"{float(values.mean()):.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {_label(name)} | {texts[0]} | {float(loads.median()):.3f} | {texts[1]} |")
    (out / "stable.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def summarise(problem: Any, results: dict[float, dict[str, Episodes]]) -> list[dict[str, Any]]:
    """A row for each load and policy: metrics, their 95 % intervals, and the mean delay as a share of the drift's."""
    rows = []
    for level, outcomes in results.items():
        cells = len(next(iter(outcomes.values())).total.energy)
        draws = torch.randint(cells, (RESAMPLES, cells), generator=torch.Generator().manual_seed(0))
        resampled = {
            name: [problem.summary(outcome.total[draw]) for draw in draws] for name, outcome in outcomes.items()
        }
        for name, outcome in outcomes.items():
            metrics, row = problem.summary(outcome.total), {"load": level, "policy": name}
            for metric in METRICS:
                low, high = _interval([one[metric] for one in resampled[name]])
                row |= {metric: metrics[metric], f"{metric}_low": low, f"{metric}_high": high}
            if DRIFT in outcomes:  # paired by cell
                pairs = zip(resampled[name], resampled[DRIFT], strict=True)
                shares = [one["mean_delay"] / other["mean_delay"] for one, other in pairs if other["mean_delay"] > 0]
                reference = problem.summary(outcomes[DRIFT].total)["mean_delay"]
                low, high = _interval(shares)
                row |= {"of_drift": metrics["mean_delay"] / reference, "of_drift_low": low, "of_drift_high": high}
            rows.append(row)
    return rows


def _policy(name: str, learned: dict[str, Any], problem: Any, asked: TrafficBenchmark) -> Policy:
    if name in learned:
        return policy_of(learned[name], DecisionRule())
    if name == "plan":
        return plan_ahead(problem, asked.cells, asked.seed)
    if name == "backlog":
        return lambda state: drift_descent(state.known, state.queues, exponent=1.0)
    return problem.references()[name]


def _interval(values: list[float]) -> tuple[float, float]:
    low, high = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(low), float(high)


def _loads(text: str) -> list[float]:
    try:
        return sorted({float(one) for one in text.split(",")})
    except ValueError:
        raise ConfigError(f"loads={text} must be numbers with commas, such as 0.5,1,1.2.") from None


def _chosen(text: str | None, problem: Any) -> list[str]:
    known = [*problem.references(), *EXTRA]
    names = text.split(",") if text else list(problem.references())
    for name in names:
        if name not in known:
            raise ConfigError(f"policies={text}: {name} is no scheduler here; they are {either(known)}.")
    return names


def _label(name: str) -> str:
    return LABELS.get(name, name)


def _store(place: Path, setting: dict[str, Any], outcome: Episodes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    parts = {"returns": outcome.returns, "total": outcome.total.tensors(), "course": outcome.course}
    torch.save({"setting": json.dumps(setting), **parts}, place)


def _stored(place: Path, setting: dict[str, Any]) -> Episodes | None:
    if not place.exists():
        return None
    content = torch.load(place, weights_only=True)
    if content["setting"] != json.dumps(setting):
        return None
    return Episodes(content["returns"], Record(**content["total"]), content["course"])


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows
        )


def _tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: mean delays over loads, then the other metrics at each load."""
    loads = list(dict.fromkeys(row["load"] for row in rows))
    names = list(dict.fromkeys(row["policy"] for row in rows))
    cells = {(row["policy"], row["load"]): row for row in rows}
    lines = ["Mean delay (slots), 95 % interval over the cells", ""]
    lines += ["| policy | " + " | ".join(f"load {one:g}" for one in loads) + " |", "|---|" + "---|" * len(loads)]
    for name in names:
        shown = [cells[name, one] for one in loads]
        delays = [f"{r['mean_delay']:.3f} [{r['mean_delay_low']:.3f}, {r['mean_delay_high']:.3f}]" for r in shown]
        lines.append(f"| {_label(name)} | " + " | ".join(delays) + " |")
    for one in loads:
        lines += ["", f"Load {one:g}", "", "| policy | of drift | " + " | ".join(list(METRICS.values())[1:]) + " |"]
        lines.append("|---|" + "---:|" * len(METRICS))
        for name in names:
            row = cells[name, one]
            share = (
                f"{row['of_drift']:.3f} [{row['of_drift_low']:.3f}, {row['of_drift_high']:.3f}]"
                if "of_drift" in row
                else ""
            )
            others = " | ".join(f"{row[metric]:.4g}" for metric in list(METRICS)[1:])
            lines.append(f"| {_label(name)} | {share} | {others} |")
    return "\n".join(lines) + "\n"


def _draw(out: Path, rows: list[dict[str, Any]], results: dict[float, dict[str, Episodes]], waiting: list[int]) -> None:
    """Delay against load; at the load nearest to 1 how long bits of links ``waiting`` did, and backlog over time."""
    names = list(dict.fromkeys(row["policy"] for row in rows))
    looks = {name: (STYLES[n % len(STYLES)], COLOURS[n % len(COLOURS)]) for n, name in enumerate(names)}

    figure, axes = _axes("load", METRICS["mean_delay"])
    for name, (style, colour) in looks.items():
        mine = [row for row in rows if row["policy"] == name]
        low, middle, high = ([max(SMALLEST, row[f"mean_delay{end}"]) for row in mine] for end in ("_low", "", "_high"))
        axes.plot([row["load"] for row in mine], middle, style, color=colour, markersize=4, label=_label(name))
        axes.fill_between([row["load"] for row in mine], low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_yscale("log")
    _save(figure, axes, out / "delay.png")

    level = min(results, key=lambda one: abs(one - 1))
    shown = {_label(name): outcome for name, outcome in results[level].items()}
    figure, axes = _axes("", "")
    draw_waiting(axes, {name: outcome.total.delays[:, waiting] for name, outcome in shown.items()})
    axes.set_title(f"load {level:g}", fontsize=9)
    _save(figure, axes, out / "waiting.png")
    figure, axes = _axes("", "")
    draw_backlogs(axes, {name: outcome.course for name, outcome in shown.items()})
    axes.set_title(f"load {level:g}", fontsize=9)
    _save(figure, axes, out / "queues.png")


def _axes(across: str, up: str) -> tuple[Any, Any]:
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, axes: Any, path: Path) -> None:
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    run(traffic_command, TrafficBenchmark)

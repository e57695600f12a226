"""Other libraries' learners on the same world: what is run, and what is written about it."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.console import Console

from d2rl.benchmark.cells import finish, finished
from d2rl.benchmark.figures import draw_figures
from d2rl.benchmark.levels import levels_table, time_to_levels
from d2rl.benchmark.matrix import BenchmarkConfig, Cell, Matrix, Variant, digest
from d2rl.benchmark.peer_config import PeersConfig
from d2rl.benchmark.report import write_report
from d2rl.benchmark.results import read_result, write_cells
from d2rl.benchmark.runner import held
from d2rl.benchmark.summary import summarize
from d2rl.common.errors import ConfigError, meant
from d2rl.common.files import write_json, write_text
from d2rl.common.host import left_as_found
from d2rl.config.defaults import Config
from d2rl.config.load import load
from d2rl.config.schema import either
from d2rl.evaluation.evaluate import Evaluation
from d2rl.problems import check_config
from d2rl.problems.full_duplex.problem import FullDuplexProblem
from d2rl.report.terminal import shown
from d2rl.runs.tracking import CsvLogger
from d2rl.training.callbacks.gpu_time import device_name

ENTROPY = re.compile(r"(auto_)?\d+(\.\d+)?(e-?\d+)?|auto")
TITLES = {"ddpg": "SB3 DDPG", "td3": "SB3 TD3", "sac": "SB3 SAC"}


@left_as_found(1)
def peers_command(arguments: list[str]) -> None:
    """python benchmarks/peers.py [algorithms=ddpg,td3,sac] [seeds=3] [seconds=240] [out=DIR] [section.key=value]

    Trains Stable-Baselines3's learners one after the other on one CPU thread, on the features, the action head and
    the evaluation drops of D2RL, and writes cells.csv, summary.json, report.md and figures as d2rl.benchmark does.
    What is finished is not run again. beside=DIR, where d2rl.benchmark wrote, adds the time that its variants need
    to the best level of each peer.
    """
    config, console = load(arguments, PeersConfig), Console()
    learners, matrix = _learners(), peer_matrix(config)
    with held(matrix.out):
        evaluation = None
        for cell in matrix.cells:
            if not finished(cell):
                evaluation = evaluation or Evaluation(
                    FullDuplexProblem(config.scenario), config.drops, config.evaluation_seed
                )
                _run(cell, config, learners, evaluation)
            result = read_result(cell)
            reached = [f"{key} in {time:.1f} s" for key, time in result.time_to_gap.items() if math.isfinite(time)]
            told = "; ".join([f"{cell.name}: gap closed {shown(result.gap_closed, 3)}", *reached])
            console.print(told, markup=False, highlight=False, soft_wrap=True)
        results = [read_result(cell) for cell in matrix.cells]
        levels = time_to_levels(results, config.beside)
        summary = {**summarize(matrix, results), "time_to_best_level": levels}
        write_cells(matrix.out / "cells.csv", results)
        write_json(matrix.out / "summary.json", summary)
        command, report = shlex.join(["python", "benchmarks/peers.py", *arguments]), matrix.out / "report.md"
        write_report(report, matrix, summary, command, draw_figures(matrix, results, summary), [])
        write_text(report, report.read_text(encoding="utf-8") + levels_table(levels, TITLES))
        console.print(f"report: {report}", markup=False, soft_wrap=True)


def peer_matrix(config: PeersConfig) -> Matrix:
    """The cells: algorithms x seeds. :raises ConfigError: an algorithm or an entropy coefficient that is none"""
    names = [name.strip() for name in config.algorithms.split(",")]
    for name in names:
        if name not in TITLES:
            raise ConfigError(f"algorithms cannot hold {name!r}; known are {either(TITLES)}.{meant(name, TITLES, 0.4)}")
    if not ENTROPY.fullmatch(config.sac.entropy):
        raise ConfigError(f"sac.entropy cannot be {config.sac.entropy!r}; it must be a number, auto or auto_START.")
    check_config(Config(scenario=config.scenario))
    out = Path(config.out or "runs/peers").expanduser()
    cells = [
        Cell(
            variant=name,
            scenario="default",
            seed=seed,
            folder=out.absolute() / "cells" / f"{name}-default-{seed}",
            arguments=(),
            config=Config(scenario=config.scenario),
            fingerprint=digest(_settings(config, name, seed)),
            references=False,
            policy=TITLES[name],
        )
        for name in dict.fromkeys(names)
        for seed in range(config.seed, config.seed + config.seeds)
    ]
    benchmark = BenchmarkConfig(
        title="Stable-Baselines3 on the same world",
        baseline=names[-1],
        ours=names[-1],
        seeds=config.seeds,
        seed=config.seed,
    )
    variants = {name: Variant("", (), TITLES[name]) for name in names}
    return Matrix("peers", benchmark, variants, ("default",), out, cells)


def _run(cell: Cell, config: PeersConfig, learners: ModuleType, evaluation: Evaluation) -> None:
    """Train one peer and leave the files that a cell of d2rl.benchmark.command leaves."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    result = learners.train_peer(
        cell.variant,
        getattr(config, cell.variant),
        config.scenario,
        evaluation,
        seed=cell.seed,
        seconds=config.seconds,
        every=config.every,
    )
    total, updates = sum(result.seconds.values()), result.curve[-1].updates
    metrics = CsvLogger(cell.folder / "metrics.csv")
    for point in result.curve:
        named = {f"eval/{name}": value for name, value in point.metrics.items()}
        metrics.log_metrics({"time/total": point.seconds, "charts/updates": point.updates, **named}, point.steps)
    metrics.save()
    write_json(
        cell.folder / "timing.json",
        {
            "device": device_name(torch.device("cpu")),
            "updates": updates,
            "seconds": result.seconds,
            "total_seconds": total,
            "seconds_per_update": total / max(1, updates),
            "seconds_per_epoch": [total],
            "time_to_gap": result.time_to_gap,
        },
    )
    evaluation.score(cell.policy, result.policy, latency=True)
    write_json(cell.folder / "eval.json", evaluation.report())
    del evaluation.policies[cell.policy]
    write_json(cell.folder / "config.json", _settings(config, cell.variant, cell.seed))
    finish(cell)


def _learners() -> ModuleType:
    try:
        from d2rl.benchmark import stable_baselines
    except ImportError:
        raise ConfigError(
            "the peers are Stable-Baselines3's, which is not installed: pip install 'd2rl[peers]'"
        ) from None
    return stable_baselines


def _settings(config: PeersConfig, algorithm: str, seed: int) -> dict[str, Any]:
    """What decides a cell's result."""
    same = {name: getattr(config, name) for name in ("seconds", "every", "drops", "evaluation_seed")}
    own = asdict(getattr(config, algorithm))
    return {"algorithm": algorithm, "seed": seed, **same, "scenario": asdict(config.scenario), algorithm: own}

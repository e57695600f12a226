"""The commands that an installation brings, ``d2rl-train`` and its like; train.py and eval.py call the same."""

from __future__ import annotations

import sys

from d2rl.commands.train_eval import evaluate_command, train_command
from d2rl.common.command_line import HELP, VERSION, run


def train() -> None:
    run(train_command)


def evaluate() -> None:
    run(evaluate_command, command="eval")


def benchmark() -> None:
    _loading()
    from d2rl.benchmark.command import benchmark_command
    from d2rl.benchmark.matrix import BenchmarkConfig

    run(benchmark_command, BenchmarkConfig)


def channels() -> None:
    _loading()
    from d2rl.commands.make_channel_bank import ChannelsConfig, channels_command

    run(channels_command, ChannelsConfig)


def export() -> None:
    _loading()
    from d2rl.deploy.export import export_command

    run(export_command)


def report() -> None:
    _loading()
    from d2rl.commands.compare_runs import report_command

    run(report_command, None)


def tune() -> None:
    _loading()
    from d2rl.commands.tune import TuneConfig, tune_command

    run(tune_command, TuneConfig)


def _loading() -> None:
    """Say at once that the command has begun."""
    if not (HELP | VERSION) & set(sys.argv[1:]):
        print("loading PyTorch", flush=True)

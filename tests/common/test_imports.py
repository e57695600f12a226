"""What a decision and a command's first line do not wait for: by what has been imported, each in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
SLOW = ("wandb", "gymnasium", "rich", "matplotlib", "lightning", "torchmetrics", "jinja2", "torch._dynamo", "pandas")
DECIDE = """
import torch, d2rl
from d2rl.algorithm.decisions import DecisionRule, decide
policy = d2rl.load("pretrained")
generator = torch.Generator().manual_seed(0)
state = policy.problem.reset(2, generator)
decide(policy, state, DecisionRule(best_of=4, refine=1), generator)
"""
FIRST_LINE = """
import builtins, sys
from d2rl.commands import main

class Spoken(BaseException):
    pass

def stop(*words, **options):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    raise Spoken

builtins.print = stop
sys.argv = ["d2rl-x", *sys.argv[1:]]
try:
    getattr(main, {name!r})()
except Spoken:
    pass
"""
TRAIN = """
from d2rl.commands.train_eval import train_command
train_command(sys.argv[1:])
"""


def run(code: str, *arguments: str, without: tuple[str, ...] = (), cwd: Path | None = None) -> tuple[list[str], str]:
    """Which slow libraries a program has imported at its end, and what it said before.

    :param without: libraries that it shall not find
    """
    hidden = f"import sys\nsys.modules.update(dict.fromkeys({without!r}))\n"
    report = f"\nsys.stderr.write(' '.join(name for name in ('torch', *{SLOW}) if sys.modules.get(name)) + '\\n')"
    command = [sys.executable, "-c", hidden + code + report, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=ENVIRONMENT, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1].split(), done.stdout


def test_a_decision_waits_for_pytorch_alone():
    assert run(DECIDE)[0] == ["torch"]


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("train", ["conf=smoke", "seed=3"], "loading PyTorch"),
        ("evaluate", ["ckpt=pretrained"], "evaluating pretrained"),
        ("benchmark", ["conf=headline"], "loading PyTorch"),
        ("channels", ["out=bank.pt"], "loading PyTorch"),
        ("export", ["ckpt=pretrained"], "loading PyTorch"),
        ("report", ["a", "b"], "loading PyTorch"),
        ("tune", ["conf=smoke"], "loading PyTorch"),
    ],
)
def test_a_command_speaks_before_pytorch_is_loaded(name, arguments, line):
    slow, said = run(FIRST_LINE.format(name=name), *arguments)
    assert slow == []
    assert said.startswith(line)


@pytest.mark.slow
def test_training_without_dashboards_needs_no_wandb(tiny_arguments, tmp_path):
    slow, _ = run(TRAIN, *tiny_arguments, "trainer.epochs=1", "run_dir=run", without=("wandb",), cwd=tmp_path)
    assert "wandb" not in slow
    assert (tmp_path / "run/eval.json").is_file()

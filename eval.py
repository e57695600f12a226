"""Evaluate a checkpoint: ``python eval.py ckpt=PATH [out=DIR] [drops=256] [seed=0] [best_of=1] [refine=0]``."""

from d2rl.cli import run
from d2rl.commands import evaluate_command

if __name__ == "__main__":
    run(evaluate_command)

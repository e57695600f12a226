"""Evaluate a checkpoint: ``python eval.py ckpt=PATH [out=DIR] [drops=256] [seed=0] [best_of=1] [refine=0]``."""

from d2rl.commands.train_eval import evaluate_command
from d2rl.common.command_line import run

if __name__ == "__main__":
    run(evaluate_command, command="eval")

"""Train an agent: ``python train.py conf=full_duplex [key=value ...]``."""

from d2rl.commands.train_eval import train_command
from d2rl.common.command_line import run

if __name__ == "__main__":
    run(train_command)

"""Train an agent: ``python train.py conf=full_duplex [key=value ...]``."""

from d2rl.cli import run
from d2rl.commands import train_command

if __name__ == "__main__":
    run(train_command)

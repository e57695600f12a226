"""Train an agent: ``python train.py conf=full_duplex [key=value ...]``."""

from d2rl.commands.main import train

if __name__ == "__main__":
    train()

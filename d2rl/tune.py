"""``python -m d2rl.tune``; see :mod:`d2rl.commands.tune`."""

from d2rl.commands.main import tune

if __name__ == "__main__":
    tune()

"""``python -m d2rl.benchmark``; see :mod:`d2rl.benchmark.command`."""

from d2rl.commands.main import benchmark

if __name__ == "__main__":
    benchmark()

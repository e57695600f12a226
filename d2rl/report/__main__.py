"""``python -m d2rl.report``; see :mod:`d2rl.commands.compare_runs`."""

from d2rl.commands.main import report

if __name__ == "__main__":
    report()

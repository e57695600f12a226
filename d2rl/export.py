"""``python -m d2rl.export``; see :mod:`d2rl.deploy.export`."""

from d2rl.commands.main import export

if __name__ == "__main__":
    export()

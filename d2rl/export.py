"""``python -m d2rl.export``; see :mod:`d2rl.deploy.export`."""

from d2rl.common.command_line import run
from d2rl.deploy.export import export_command

if __name__ == "__main__":
    run(export_command)

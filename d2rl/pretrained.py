"""``python -m d2rl.pretrained``; see :mod:`d2rl.commands.make_pretrained`."""

from d2rl.commands.make_pretrained import pretrained_command
from d2rl.common.command_line import run

if __name__ == "__main__":
    run(pretrained_command)

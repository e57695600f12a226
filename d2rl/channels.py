"""``python -m d2rl.channels``; see :mod:`d2rl.commands.make_channel_bank`."""

from d2rl.commands.make_channel_bank import ChannelsConfig, channels_command
from d2rl.common.command_line import run

if __name__ == "__main__":
    run(channels_command, ChannelsConfig)

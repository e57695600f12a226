"""``python -m d2rl.channels``; see :mod:`d2rl.commands.make_channel_bank`."""

from d2rl.commands.main import channels

if __name__ == "__main__":
    channels()

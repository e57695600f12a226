"""``python -m d2rl.channels``, and the same as functions: ``from d2rl.channels import bank_from_file, save_bank``."""

from importlib import import_module
from typing import Any

from d2rl.commands.main import channels

FUNCTIONS = {
    "bank_from_file": "d2rl.commands.convert_channels",
    "urban_bank": "d2rl.commands.make_channel_bank",
    "load_bank": "d2rl.wireless.bank_file",
    "save_bank": "d2rl.wireless.bank_file",
}


def __getattr__(name: str) -> Any:
    """The functions, imported only when asked for: the command shall speak at once."""
    if name not in FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(FUNCTIONS[name]), name)


if __name__ == "__main__":
    channels()

"""The callbacks, under their stable name; they are defined in :mod:`d2rl.training.callbacks`."""

from d2rl.training.callbacks import *  # noqa: F403
from d2rl.training.callbacks import __all__  # noqa: F401

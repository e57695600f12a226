"""Keys that would change nothing in a command: refused where they are given to it, and left out of its ``--help``."""

from __future__ import annotations

from collections.abc import Iterable

from d2rl.common.errors import ConfigError
from d2rl.config.defaults import Config
from d2rl.config.schema import leaves

LEARNING = (  # what only a training has a use for; a name that ends with a dot is that of a section
    *("scenario.feedback", "scenario.stored_states", "scenario.loads", "network.critic"),
    *("ddpg.", "reward.", "state.", "chi.", "stages.", "logger."),
    *("action.objective", "action.samples", "action.gradient_steps", "action.candidates", "action.temperature"),
    *("action.weighted_scale", "evaluation.every", "problem", "seed", "run_dir", "resume", "initial"),
    *("trainer.epochs", "trainer.updates_per_epoch", "trainer.updates_per_step", "trainer.updates_per_slot"),
    *("trainer.num_envs", "trainer.strategy", "trainer.devices", "trainer.nodes", "trainer.cuda_graphs"),
    *("trainer.compile", "trainer.checkpoint_every", "trainer.progress"),
)
OBJECTIVE = ("scenario.objective", "scenario.minimum_rate", "scenario.circuit_power")
TIME = ("scenario.speed", "scenario.slot", "scenario.episode_length")
PRIORITIES = ("scenario.priority_direction", "scenario.priority_user", "scenario.priority_zero")
DECIDING = ("network.", "action.", "trainer.", "evaluation.")  # sections of how decisions are made and judged
UNUSED = {
    "train": (),
    "benchmark": ("evaluation.slots", "evaluation.references", "logger.project", "logger.name", "logger.level"),
    "eval": LEARNING,
    "export": (
        *(*LEARNING, *TIME, *PRIORITIES, *OBJECTIVE, "scenario.carrier", "trainer.", "evaluation.drops"),
        *("evaluation.priority_spread", "evaluation.weights", "evaluation.slots", "evaluation.references"),
    ),
    "channels": (
        *(*LEARNING, *DECIDING, *TIME, *PRIORITIES, *OBJECTIVE, "scenario.path_loss", "scenario.rician"),
        *("scenario.csi_error", "scenario.channel_bank", "scenario.head", "scenario.passes", "scenario.antenna_power"),
    ),
}
PLACES = {
    "benchmark": "a benchmark",
    "eval": "the evaluation of a trained policy",
    "export": "an exported decision",
    "channels": "a bank of these channels",
}


def unused(key: str, command: str) -> bool:
    """Whether a key changes nothing in ``train``, ``benchmark``, ``eval``, ``export`` or ``channels``."""
    return any(key == one or (one.endswith(".") and key.startswith(one)) for one in UNUSED[command])


def refuse_unused(command: str, arguments: Iterable[str]) -> None:
    """Refuse ``key=value`` arguments without an effect; in a file of ``conf=``, which is of a whole experiment, they
    may stand.

    :raises ConfigError: names the argument
    """
    known = leaves(Config)
    for argument in arguments:
        key = argument.partition("=")[0]
        if key in known and unused(key, command):
            raise ConfigError(f"{argument} changes nothing in {PLACES[command]}; leave it out.")

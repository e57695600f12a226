"""D2RL: diffusion-based deep reinforcement learning for wireless resource allocation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from d2rl.algorithm.policy import Policy
    from d2rl.commands.library import TrainedRun
    from d2rl.config.defaults import RunConfig


def load(policy: str = "pretrained", *overrides: str, runtime: str = "torch") -> Policy:
    """A trained policy that is ready to decide.

    Example::

        policy = d2rl.load("pretrained")
        precoder, uplink_power = policy.decide(channels, best_of=16)

    :param policy: a checkpoint, a run directory, a policy folder, ``pretrained`` or ``pretrained/NAME``
    :param overrides: ``key=value`` over the configuration that it carries
    :param runtime: ``torch``, or ``onnx``: decisions by ONNX Runtime on one thread of the CPU, for one cell in about a
        third of the time. The first call with a number of candidates makes its session, which takes tens of seconds.
    :raises CheckpointError: it cannot be read, or does not fit the configuration
    :raises ConfigError: another runtime, or one that is not installed
    """
    from d2rl.deploy.pretrained import load_policy

    if runtime == "torch":
        return load_policy(policy, overrides)[0]
    from d2rl.deploy.session import load_for_sessions

    return load_for_sessions(policy, overrides, runtime)


def train(config: str | RunConfig = "conf=full_duplex", *overrides: str) -> TrainedRun:
    """Train an agent, as ``d2rl-train`` does; the process stays as it was found.

    It prints one line when it begins, with the run directory, and then only warnings; ``logger.level=warning`` leaves
    out the line.

    Example::

        run = d2rl.train("conf=smoke", "seed=1", "logger.mode=disabled")
        run.report["policies"]["d2rl"]["sum_rate"]
        run.policy.decide(channels)

    :param config: the first argument of the command, or a configuration
    :param overrides: ``key=value`` over it
    :returns: the run, complete
    :raises ConfigError: names the key, what it got and the remedy
    """
    from d2rl.commands.library import train_quietly

    return train_quietly(config, overrides)

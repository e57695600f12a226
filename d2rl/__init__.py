"""D2RL: diffusion-based deep reinforcement learning for wireless resource allocation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from d2rl.algorithm.policy import Policy


def load(policy: str = "pretrained", *overrides: str) -> Policy:
    """A trained policy that is ready to decide.

    Example::

        policy = d2rl.load("pretrained")
        precoder, power = decide(policy, state, DecisionRule(best_of=16), generator)

    :param policy: a checkpoint, a run directory, a policy folder, ``pretrained`` or ``pretrained/NAME``
    :param overrides: ``key=value`` over the configuration that it carries
    :raises CheckpointError: it cannot be read, or does not fit the configuration
    """
    from d2rl.deploy.pretrained import load_policy

    return load_policy(policy, overrides)[0]

"""What an agent takes from a checkpoint without going on where it was written."""

from __future__ import annotations

from typing import Any

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.policy import misfit, notice_change, same_shape
from d2rl.algorithm.state_weights import fits_state_explorer, with_own_state_explorer
from d2rl.common.errors import CheckpointError
from d2rl.problems import make_problems
from d2rl.training.checkpoint import config_of


def load_weights(agent: D2RL, checkpoint: dict[str, Any], name: str) -> None:
    """Take weights and stages, not the world, from a checkpoint.

    :param name: of the file, for messages
    :raises CheckpointError: weights of other shapes
    """
    before = config_of(checkpoint)
    made_for, weights = make_problems(before)[0], dict(checkpoint["state_dict"])
    same = same_shape(made_for, agent.problem)
    # in another cell its rows are others; no decision needs it
    weights = with_own_state_explorer(agent.senpnn, weights, keep=same and fits_state_explorer(agent.senpnn, weights))
    try:
        if not same and before.network.kind == "mlp":  # another problem may have as many numbers
            raise RuntimeError
        agent.load_state_dict(weights)
        notice_change(made_for, agent.problem)
    except RuntimeError:
        raise misfit(name, (made_for, before), (agent.problem, agent.config)) from None
    agent.stages = dict(checkpoint["d2rl"]["stages"])


def begin_from(agent: D2RL, checkpoint: dict[str, Any], name: str) -> None:
    """Begin a new run with the weights of a checkpoint; counters, world, replay and optimizers are new.

    Stages that it had begun begin with this run, where that plans them; that of SENPNN only in the same cell, since
    elsewhere SENPNN is new and has to learn first.

    :param name: of the file, for messages
    :raises CheckpointError: weights of other shapes, or a policy that this run would not use
    """
    load_weights(agent, checkpoint, name)
    before = config_of(checkpoint)
    agent.initial_stages, agent.stages = agent.stages, dict.fromkeys(agent.stages, False)
    same = same_shape(make_problems(before)[0], agent.problem)
    known = same and fits_state_explorer(agent.senpnn, checkpoint["state_dict"])
    agent.initial_stages["state"] &= known
    agent.reward_unit_known = before.reward.case == agent.config.reward.case
    if agent.initial_stages["action"] and agent.config.stages.action is None:
        raise CheckpointError(
            f"{name} holds a policy of AENPNN, which stages.action=null leaves out; set stages.action=0, or give a "
            "checkpoint of a deterministic actor."
        )

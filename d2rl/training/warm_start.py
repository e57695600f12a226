"""What an agent takes from a checkpoint without going on where it was written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from d2rl.common.errors import CheckpointError
from d2rl.problems.full_duplex.scenario_bank import CELL

if TYPE_CHECKING:
    from d2rl.algorithm.agent import D2RL


def load_weights(agent: D2RL, checkpoint: dict[str, Any], name: str) -> None:
    """Take weights and stages, not the world, from a checkpoint.

    :param name: of the file, for messages
    :raises CheckpointError: weights of other shapes
    """
    (cell, network), now = (checkpoint["d2rl"]["config"][part] for part in ("scenario", "network")), agent.config
    same_cell = _same_cell(cell, vars(now.scenario))
    weights = dict(checkpoint["state_dict"])
    if not same_cell:  # SENPNN is tied to the antennas, and no decision needs it
        weights |= agent.senpnn.state_dict(prefix="senpnn.")
    try:
        if not same_cell and network["kind"] == "mlp":  # another cell may have as many coefficients
            raise RuntimeError
        agent.load_state_dict(weights)
    except RuntimeError:
        raise CheckpointError(
            f"{name} was trained for {_described(cell, network)}; it cannot serve "
            f"{_described(vars(now.scenario), vars(now.network))}. The link_graph network with the structured head "
            "serves any number of users and antennas."
        ) from None
    agent.stages = dict(checkpoint["d2rl"]["stages"])


def begin_from(agent: D2RL, checkpoint: dict[str, Any], name: str) -> None:
    """Begin a new run with the weights of a checkpoint; counters, world, replay and optimizers are new.

    Stages that it had begun begin with this run, where that plans them; that of SENPNN only in the same cell, since
    elsewhere SENPNN is new and has to learn first.

    :param name: of the file, for messages
    :raises CheckpointError: weights of other shapes, or a policy that this run would not use
    """
    load_weights(agent, checkpoint, name)
    before = checkpoint["d2rl"]["config"]
    agent.brought, agent.stages = agent.stages, dict.fromkeys(agent.stages, False)
    agent.brought["state"] &= _same_cell(before["scenario"], vars(agent.config.scenario))
    agent.calibrated = before["reward"]["case"] == agent.config.reward.case
    if agent.brought["action"] and agent.config.stages.action is None:
        raise CheckpointError(
            f"{name} holds a policy of AENPNN, which stages.action=null leaves out; set stages.action=0, or give a "
            "checkpoint of a deterministic actor."
        )


def _same_cell(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(first[key] == second[key] for key in CELL)


def _described(scenario: dict[str, Any], network: dict[str, Any]) -> str:
    cell = "{} + {} users and {} + {} antennas".format(*(scenario[key] for key in CELL))
    return f"{cell} with the {network['kind']} network of width {network['width']} and the {scenario['head']} head"

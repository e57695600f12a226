"""What a base station could do without learning, on the channels that it knows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from d2rl.problems.base import stream
from d2rl.problems.full_duplex.simulator import CellState
from d2rl.wireless import ChannelState, full_uplink_power, mrt, random_decision, rzf, wmmse, zf
from d2rl.wireless.fairness import fair_wmmse
from d2rl.wireless.objectives import Objective

WMMSE_ITERATIONS = 200

Policy = Callable[[CellState], tuple[Tensor, Tensor]]


def reference_policies(starts: int = 1, objective: Objective | None = None) -> dict[str, Policy]:
    """WMMSE, linear precoders at full power, random decisions, by name.

    :param starts: of WMMSE
    :param objective: that WMMSE maximises; None: the weighted sum rate
    """

    def at_full_power(precoder: Callable[[ChannelState], Tensor]) -> Policy:
        return lambda state: (precoder(state.estimate), full_uplink_power(state.estimate))

    def random(state: CellState) -> tuple[Tensor, Tensor]:
        generator = torch.Generator(state.weights.device).manual_seed(stream("random"))
        return random_decision(state.estimate, generator)

    def optimised(state: CellState) -> tuple[Tensor, Tensor]:
        if objective is None or objective.plain:
            return wmmse(state.estimate, WMMSE_ITERATIONS, starts, state.weights)
        return fair_wmmse(state.estimate, state.weights, objective, WMMSE_ITERATIONS)

    return {
        "wmmse": optimised,
        "rzf": at_full_power(rzf),
        "zf": at_full_power(zf),
        "mrt": at_full_power(mrt),
        "random": random,
    }

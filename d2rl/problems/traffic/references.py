"""Schedulers without learning, as policies of the traffic problem."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from d2rl.problems.traffic import schedulers
from d2rl.problems.traffic.descent import drift_descent
from d2rl.problems.traffic.objective import Decision
from d2rl.problems.traffic.settings import TrafficConfig
from d2rl.problems.traffic.simulator import TrafficState
from d2rl.wireless.channel_state import ChannelState

Policy = Callable[[TrafficState], Decision]


def reference_policies(
    traffic: TrafficConfig, deadlines: Tensor | None, promised: Callable[[ChannelState, Decision], Tensor]
) -> dict[str, Policy]:
    """By name; each decides on what the base station knows.

    :param traffic: minimum rate and window; with a minimum rate there are schedulers that keep it
    :param deadlines: [K], slots; None: there are none, and no scheduler that follows them
    :param promised: what a decision seems to send on known channels, [B, 1, K], differentiable
    """

    def rates(channels: ChannelState, precoder: Tensor, power: Tensor) -> Tensor:
        return promised(channels, (precoder, power)).squeeze(1)

    policies: dict[str, Policy] = {
        "maxweight": lambda state: schedulers.max_weight(state.known, state.queues),
        "maxweight_sqrt": lambda state: schedulers.max_weight(state.known, state.queues, exponent=0.5),
        "drift": lambda state: drift_descent(state.known, state.queues, rates=rates),
        "proportional_fair": lambda state: schedulers.proportional_fair(state.known, state.queues, state.throughput),
        "round_robin": lambda state: schedulers.round_robin(state.known, state.queues, state.cell.slot),
    }
    if deadlines is not None:
        limits = deadlines
        policies["m_lwdf"] = lambda state: schedulers.largest_weighted_delay(
            state.known, state.queues, state.head_of_line, state.throughput, limits.to(state.bits.device)
        )
        policies["edf"] = lambda state: schedulers.earliest_deadline(
            state.known, state.queues, state.head_of_line, limits.to(state.bits.device)
        )
    if traffic.minimum_rate:

        def missing(state: TrafficState) -> Tensor:
            return schedulers.virtual_queues(state.queues, state.throughput, traffic.minimum_rate, traffic.window)

        policies["maxweight_virtual"] = lambda state: schedulers.max_weight(state.known, state.queues + missing(state))
        policies["drift_virtual"] = lambda state: drift_descent(
            state.known, state.queues, rates=rates, virtual=missing(state)
        )
    return policies

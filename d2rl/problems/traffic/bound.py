"""A delay that no policy can pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2rl.problems.base import Simulation
from d2rl.problems.traffic.simulator import TrafficState
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.link_rates import squared_magnitude


@torch.inference_mode()
def least_delay(problem: Any, episodes: int, seed: int, device: str | torch.device = "cpu") -> float:
    """Mean delay in slots if every link had the cell, and the base station's whole power, to itself.

    :param problem: a :class:`TrafficProblem` in which nothing is dropped
    """
    world: Simulation[TrafficState] = Simulation(problem.endless(), episodes, seed, device)
    waiting = world.state.queues
    backlog = arrived = 0.0
    for _ in range(problem.slots):
        state = world.state
        waiting = (waiting - lonely_rates(state.cell.channels)).clamp_min(0)
        backlog += float(waiting.double().sum())
        silence = torch.zeros_like(state.known.downlink.mT), torch.zeros_like(state.known.uplink[..., 0].real)
        came = world.step(silence).record.arrived
        arrived += float(came.double().sum())
        waiting = waiting + came
    return backlog / max(arrived, 1e-9)


def lonely_rates(channels: ChannelState) -> Tensor:
    """Rate of every link if it were the only one, [B, K], bit/s/Hz."""
    gains = [squared_magnitude(one).sum(-1) for one in (channels.downlink, channels.uplink)]
    return torch.log2(1 + torch.cat(gains, dim=-1))

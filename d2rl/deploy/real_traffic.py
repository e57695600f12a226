"""The decision of a policy for cells with queues, as one module without complex numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from d2rl.algorithm.policy import Policy
from d2rl.deploy.real_decision import RealCell, RealDecision, observe
from d2rl.problems.base import Simulation
from d2rl.problems.traffic.observation import MEASUREMENTS, measured, queue_features
from d2rl.problems.traffic.queues import DUST
from d2rl.problems.traffic.simulator import TrafficState
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.real_algebra import RealChannels, pairs

WAITED = 3  # slots


class RealTrafficDecision(RealDecision):
    """Channels and what is measured of the queues in; precoder and uplink power out.

    ``traffic`` [B, K, 6] holds the :data:`MEASUREMENTS` of every link.

    :param policy: what decides
    """

    def __init__(self, policy: Policy):
        super().__init__(policy)

    def links(self, problem: Any) -> Any:
        """The full-duplex cell below the queues."""
        return problem.links

    def asked(self, batch: int) -> dict[str, Tensor]:
        """What is measured, as an example."""
        return {"traffic": torch.ones(batch, self.cell.links, len(MEASUREMENTS))}

    def states(self, drops: int, seed: int) -> TrafficState:
        """Cells in which something waits: nothing was served for some slots."""
        world = Simulation(self.problem.endless(), drops, seed)
        for _ in range(WAITED):
            precoder, power = self.problem.decode(
                self.problem.observe(world.state), torch.zeros(drops, 1, self.layout.size)
            )
            world.step((0 * precoder, 0 * power))
        return world.state

    def known(self, states: TrafficState) -> ChannelState:
        """What is known of their channels."""
        return states.known

    def with_known(self, states: TrafficState, channels: ChannelState) -> TrafficState:
        """The same cells with other channels known."""
        return replace(states, cell=replace(states.cell, estimate=channels), late=None)

    def given(self, states: TrafficState) -> dict[str, Tensor]:
        """What is measured in these cells."""
        return {"traffic": measured(states, self.problem.cells.waiting(states))}

    def forward(
        self,
        downlink: Tensor,
        uplink: Tensor,
        cross: Tensor,
        self_interference: Tensor,
        traffic: Tensor,
        *further: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Precoder [B, N_t, K_D, 2] and uplink power [B, K_U]; the inputs are those of :meth:`example`, in order."""
        cell = RealCell.of(RealChannels(downlink, uplink, cross, self_interference))
        noise = further[0].permute(2, 0, 1, 3, 4).flatten(1, 2).unsqueeze(2) if self.diffusion else None
        seen = observe(cell, torch.ones_like(traffic[:, None, :, 0]), self.layout.numbers)
        nodes = torch.cat([seen.nodes, queue_features(traffic, seen.baseline)], dim=-1)
        action = self.act(replace(seen, nodes=nodes), noise).unsqueeze(1)
        beams, power = self.decide(cell, action, traffic[..., 0] > DUST)
        return pairs(beams.squeeze(1)[..., ::2]).float(), power.squeeze(1).float()

"""What a critic sees of an action, for every link: the powers that it brings about, or its bare numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d2rl.algorithm.networks.actions import downlink_mask
from d2rl.problems.full_duplex.observation import Observation, log_gain
from d2rl.wireless.channel_state import ChannelState, repeated
from d2rl.wireless.heads import ActionHead
from d2rl.wireless.link_rates import link_powers

Decision = tuple[Tensor, Tensor]


class PowersView(nn.Module):
    """Log signal, and log interference plus noise, that an action gives each link on the known channels.

    A critic need not learn to invert matrices then, and its gradient reaches the action through the head.

    :param head: decodes actions
    """

    size = 2

    def __init__(self, head: ActionHead):
        super().__init__()
        self.head = head

    def forward(self, observation: Observation, action: Tensor, decision: Decision | None = None) -> Tensor:
        """[B, M, K, 2] for M actions [B, M, size] of each state.

        :param decision: what the head makes of the B M actions, where it is at hand
        """
        with torch.autocast(action.device.type, enabled=False):
            channels = observation.channels.repeat(action.shape[1])
            decision = decide(self.head, observation, action, channels) if decision is None else decision
            signal, disturbance = link_powers(channels, *decision)
            view = torch.stack([log_gain(signal), log_gain(disturbance - 1)], dim=-1)
        return view.unflatten(0, (-1, action.shape[1]))


class NumbersView(nn.Module):
    """The numbers of each link, downlink and uplink ones apart: the textbook form.

    What the numbers do to the other links is left for the critic to learn.

    :param head: tells which numbers are whose
    """

    def __init__(self, head: ActionHead):
        super().__init__()
        self.layout = head.layout
        self.size = 2 * self.layout.width

    def forward(self, observation: Observation, action: Tensor, decision: Decision | None = None) -> Tensor:
        """[B, M, K, 2 layout.width] for M actions [B, M, size] of each state."""
        users = observation.channels.downlink_users
        numbers = self.layout.to_links(action, users)
        mask = downlink_mask(numbers.shape[-2], users, numbers.device)
        return torch.cat([numbers * mask, numbers * ~mask], dim=-1)


def decide(
    head: ActionHead, observation: Observation, action: Tensor, channels: ChannelState | None = None
) -> Decision:
    """Precoders [B M, N_t, K_D] and uplink powers [B M, K_U] of M actions [B, M, size] of each state.

    A link of weight 0 stays silent, whatever the action says: it could only disturb the others.

    :param channels: the observation's, each state M times in a row, where they are at hand
    """
    count = action.shape[1]
    channels = observation.channels.repeat(count) if channels is None else channels
    precoder, power = head.decode(channels, action.float().flatten(0, 1), repeated(observation.basis, count))
    wanted = repeated((observation.weights > 0).to(power.dtype), count)
    down, up = wanted.tensor_split([channels.downlink_users], dim=-1)
    return precoder * down.unsqueeze(-2), power * up

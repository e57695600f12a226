"""The paper's plain network: raw CSI in, one hidden vector, one embedding per link out."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from d2rl.problems.full_duplex.observation import Observation
from d2rl.wireless.channel_state import ChannelState

HIDDEN_FACTOR = 8  # a hidden layer is this many times the width of an embedding


class MLPEncoder(nn.Module):
    """Embeds every link of a state from raw CSI; tied to one K and N.

    :param example: channels of the shapes to expect
    :param width: size of an embedding
    :param layers: hidden layers
    """

    def __init__(self, example: ChannelState, width: int, layers: int, extra: int = 0):
        super().__init__()
        self.cell = _cell(example)
        size = raw_csi(example).shape[-1] + example.links + extra
        hidden = HIDDEN_FACTOR * width
        sizes = [size, *[hidden] * layers]
        blocks = [(nn.Linear(i, o), nn.ReLU()) for i, o in pairwise(sizes)]
        self.body = nn.Sequential(*(module for block in blocks for module in block))
        self.out = nn.Sequential(nn.Linear(hidden, example.links * width), nn.ReLU(), nn.Unflatten(-1, (-1, width)))

    def forward(self, observation: Observation, extra: Tensor | None = None) -> Tensor:
        """Embeddings [B, K, width], or [B, M, K, width] with ``extra`` [B, M, extra].

        :raises ValueError: a cell of another size; one of as many coefficients would be misread
        """
        if _cell(observation.channels) != self.cell:
            raise ValueError(
                "this mlp network was built for {} + {} users and {} + {} antennas and cannot serve {} + {} and "
                "{} + {}; the link_graph network can".format(*self.cell, *_cell(observation.channels))
            )
        inputs = torch.cat([raw_csi(observation.channels), torch.log(observation.weights.clamp_min(1e-3))], dim=-1)
        if extra is not None:
            inputs = torch.cat([inputs.unsqueeze(1).expand(-1, extra.shape[1], -1), extra], dim=-1)
        return self.out(self.body(inputs))


class MLPTransition(MLPEncoder):
    """Embeds every link of a state together with the view of an action, all in one vector."""

    def forward(self, observation: Observation, view: Tensor) -> Tensor:  # type: ignore[override]
        """Embeddings [B, M, K, width] from views [B, M, K, view] of M actions for each state."""
        return super().forward(observation, view.flatten(-2))


def raw_csi(channels: ChannelState) -> Tensor:
    """Real and imaginary parts of every coefficient, magnitudes on a log scale: [B, 2 x coefficients]."""
    flat = torch.cat([tensor.flatten(1) for tensor in channels.tensors().values()], dim=-1)
    magnitude = flat.abs()
    compressed = flat * (torch.log10(1 + magnitude) / magnitude.clamp_min(1e-12))
    return torch.view_as_real(compressed.resolve_conj()).flatten(1)


def _cell(channels: ChannelState) -> tuple[int, int, int, int]:
    return channels.downlink_users, channels.uplink_users, channels.transmit_antennas, channels.receive_antennas

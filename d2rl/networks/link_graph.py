"""Message passing between links: equivariant to the order of users, one set of weights for any K and N."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2rl.networks.actions import downlink_mask
from d2rl.networks.features import (
    ACTION_EDGE_FEATURES,
    ACTION_NODE_FEATURES,
    EDGE_FEATURES,
    NODE_FEATURES,
    Observation,
    action_features,
)
from d2rl.wireless.heads import ActionHead


class MessageLayer(nn.Module):
    """h_i <- h_i + relu(W [h_i, K^-1/2 sum_j m_ij]) with m_ij = relu(A h_i + B h_j + C e_ij).

    The first linear map of a message is split over receiver, sender and edge, so that nothing of size
    K x K is ever multiplied by a width x width matrix.
    """

    def __init__(self, width: int, edge_features: int):
        super().__init__()
        self.ends = nn.Linear(width, 2 * width)
        self.edge = nn.Linear(edge_features, width, bias=False)
        self.update = nn.Linear(2 * width, width)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """Nodes [..., K, width] after one exchange over edges [..., K, K, edge_features]."""
        receiver, sender = self.ends(nodes).chunk(2, dim=-1)
        # in place: at this size the memory traffic of every pass over K x K costs more than its arithmetic
        messages = self.edge(edges).add_(receiver.unsqueeze(-2)).add_(sender.unsqueeze(-3)).relu_()
        gathered = messages.sum(-2) * nodes.shape[-2] ** -0.5
        return nodes + F.relu(self.update(torch.cat([nodes, gathered], dim=-1)))


class LinkGraphEncoder(nn.Module):
    """Embeds every link of a state.

    :param width: size of an embedding
    :param layers: rounds of message passing
    """

    def __init__(self, width: int, layers: int):
        super().__init__()
        self.inlet = nn.Linear(NODE_FEATURES, width)
        self.layers = nn.ModuleList(MessageLayer(width, EDGE_FEATURES) for _ in range(layers))

    def forward(self, observation: Observation) -> Tensor:
        """Embeddings [B, K, width]."""
        nodes = F.relu(self.inlet(observation.nodes))
        for layer in self.layers:
            nodes = layer(nodes, observation.edges)
        return nodes


class LinkGraphTransition(nn.Module):
    """Embeds every link of a state together with an action.

    An action enters as what it does: the powers that each link receives from each other link. So the
    network need not learn to invert matrices, and its gradient reaches the action through the head.

    :param head: decodes actions
    :param width: size of an embedding
    """

    def __init__(self, head: ActionHead, width: int):
        super().__init__()
        self.head = head
        self.inlet = nn.Linear(NODE_FEATURES + ACTION_NODE_FEATURES, width)
        self.layer = MessageLayer(width, EDGE_FEATURES + ACTION_EDGE_FEATURES)
        self.outlet = nn.Linear(width, width)

    def forward(self, observation: Observation, action: Tensor) -> Tensor:
        """Embeddings [B, M, K, width] of M actions [B, M, size] for each state."""
        count = action.shape[1]
        with torch.autocast(action.device.type, enabled=False):
            copied = _repeat(observation, count)
            decision = self.head.decode(copied.channels, action.float().flatten(0, 1))
            action_nodes, action_edges = action_features(copied, *decision)
        nodes = F.relu(self.inlet(torch.cat([copied.nodes, action_nodes], dim=-1)))
        nodes = self.layer(nodes, torch.cat([copied.edges, action_edges], dim=-1))
        return F.relu(self.outlet(nodes)).unflatten(0, (-1, count))


class LinkGraphNumbers(nn.Module):
    """Embeds every link of a state together with an action, taken as the bare numbers of each link.

    The textbook critic: what the numbers do to the other links is left for it to learn.

    :param head: tells which numbers are whose
    :param width: size of an embedding      :param layers: rounds of message passing
    """

    def __init__(self, head: ActionHead, width: int, layers: int):
        super().__init__()
        self.layout = head.layout
        self.inlet = nn.Linear(NODE_FEATURES + 2 * self.layout.width, width)
        self.layers = nn.ModuleList(MessageLayer(width, EDGE_FEATURES) for _ in range(layers))
        self.outlet = nn.Linear(width, width)

    def forward(self, observation: Observation, action: Tensor) -> Tensor:
        """Embeddings [B, M, K, width] of M actions [B, M, size] for each state."""
        count, users = action.shape[1], observation.channels.downlink_users
        copied = _repeat(observation, count)
        numbers = self.layout.to_links(action.flatten(0, 1), users)
        mask = downlink_mask(numbers.shape[-2], users, numbers.device)
        nodes = F.relu(self.inlet(torch.cat([copied.nodes, numbers * mask, numbers * ~mask], dim=-1)))
        for layer in self.layers:
            nodes = layer(nodes, copied.edges)
        return F.relu(self.outlet(nodes)).unflatten(0, (-1, count))


def _repeat(observation: Observation, count: int) -> Observation:
    if count == 1:
        return observation
    index = torch.arange(observation.batch, device=observation.weights.device).repeat_interleave(count)
    return observation[index]

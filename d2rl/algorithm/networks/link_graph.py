"""Message passing between links: equivariant to the order of users, one set of weights for any K and N."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2rl.algorithm.networks.exchange import exchange
from d2rl.problems.base import Observation, Sizes


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
        """Nodes [..., K, width] after one exchange over edges [..., K, K, edge_features], which broadcast."""
        receiver, sender = self.ends(nodes).chunk(2, dim=-1)
        gathered = exchange(receiver, sender, edges, self.edge.weight) * nodes.shape[-2] ** -0.5
        return nodes + F.relu(self.update(torch.cat([nodes, gathered], dim=-1)))


class LinkGraphEncoder(nn.Module):
    """Embeds every link of a state.

    :param sizes: of nodes and edges
    :param width: size of an embedding
    :param layers: rounds of message passing
    """

    def __init__(self, sizes: Sizes, width: int, layers: int):
        super().__init__()
        self.inlet = nn.Linear(sizes.nodes, width)
        self.layers = nn.ModuleList(MessageLayer(width, sizes.edges) for _ in range(layers))

    def forward(self, observation: Observation) -> Tensor:
        """Embeddings [B, K, width]."""
        nodes = F.relu(self.inlet(observation.nodes))
        for layer in self.layers:
            nodes = layer(nodes, observation.edges)
        return nodes


class LinkGraphTransition(nn.Module):
    """Embeds every link of a state together with what an action means for it, by message passing.

    :param sizes: of nodes and edges
    :param view: numbers that tell a link what an action does
    :param width: size of an embedding      :param layers: rounds of message passing
    """

    def __init__(self, sizes: Sizes, view: int, width: int, layers: int):
        super().__init__()
        self.inlet = nn.Linear(sizes.nodes + view, width)
        self.layers = nn.ModuleList(MessageLayer(width, sizes.edges) for _ in range(layers))
        self.outlet = nn.Linear(width, width)

    def forward(self, observation: Observation, view: Tensor) -> Tensor:
        """Embeddings [B, M, K, width] from views [B, M, K, view] of M actions for each state."""
        nodes = observation.nodes.unsqueeze(1).expand(-1, view.shape[1], -1, -1)
        nodes = F.relu(self.inlet(torch.cat([nodes, view], dim=-1)))
        for layer in self.layers:
            nodes = layer(nodes, observation.edges.unsqueeze(1))
        return F.relu(self.outlet(nodes))


class LinkTransition(nn.Module):
    """Embeds every link by itself, together with what an action means for it and, unless alone, for the average link.

    Enough where the view tells the powers that a link receives: nothing else decides its reward.

    :param sizes: of nodes
    :param view: numbers that tell a link what an action does
    :param width: size of an embedding
    :param alone: leave the average link out: links cannot be confused where sums of them are all that is told
    """

    def __init__(self, sizes: Sizes, view: int, width: int, alone: bool = False):
        super().__init__()
        self.state, self.view = nn.Linear(sizes.nodes, width), nn.Linear(view, width, bias=False)
        self.hidden = nn.Linear(width, width)
        self.mean = None if alone else nn.Linear(width, width, bias=False)

    def forward(self, observation: Observation, view: Tensor) -> Tensor:
        """Embeddings [B, M, K, width] from views [B, M, K, view] of M actions for each state."""
        links = F.relu(self.view(view) + self.state(observation.nodes).unsqueeze(1))
        if self.mean is None:
            return F.relu(self.hidden(links))
        return F.relu(self.hidden(links) + self.mean(links.mean(-2, keepdim=True)))

"""Late estimates and today's channels as rows that SENPNN makes anew together, so that they fit each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from d2rl.problems.base import Rows
from d2rl.problems.full_duplex.problem import FullDuplexProblem
from d2rl.problems.full_duplex.simulator import CellState
from d2rl.problems.full_duplex.state_rows import with_numbers
from d2rl.wireless.channel_state import ChannelState

LEAST = 1e-6  # share of the power in which an estimate and the channel are taken to differ at least


class LateRows:
    r"""A row [2 d] holds sum and difference of an estimate and of the channel in the slot in which it is used.

    Both have the same power, so sum and difference are uncorrelated, and their powers tell how the two slots are:

    .. math:: E|h \pm \hat h|^2 = 2\,(1 \pm r), \quad r = \mathrm{Re}\, E[h \hat h^*]

    Each is divided by the root of what the scenario lets expect; what is left of it, and of the covariance over
    antennas and slots, is for SENPNN to learn.

    :param links: the cell
    :param correlations: r of each kind of row in this scenario
    """

    def __init__(self, links: FullDuplexProblem, correlations: Mapping[str, float]):
        self.links, self.own = links, links.row_sizes()
        self.roots = {name: ((2 + 2 * r) ** 0.5, (2 * max(1 - r, LEAST)) ** 0.5) for name, r in correlations.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """Length of a row of each kind."""
        return {name: 2 * size for name, size in self.own.items()}

    def rows(self, cell: CellState, late: ChannelState) -> dict[str, Rows]:
        """Of cells and the estimates of them that are used now."""
        true, seen = self.links.rows(cell), self.links.rows(replace(cell, channels=late))
        return {name: replace(one, numbers=self._together(name, one, seen[name])) for name, one in true.items()}

    def channels(self, cell: CellState, numbers: Mapping[str, Tensor]) -> tuple[ChannelState, ChannelState]:
        """True channels, and estimates of them, in the geometry of the cells.

        :param numbers: [B, n, 2 d] of each kind
        """
        halves: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}
        for name, both in numbers.items():
            total, change = (half * root for half, root in zip(both.chunk(2, dim=-1), self.roots[name], strict=True))
            halves[0][name], halves[1][name] = (total + change) / 2, (total - change) / 2
        true, seen = (with_numbers(cell, self.own, half) for half in halves)
        return true, seen

    def _together(self, name: str, true: Rows, seen: Rows) -> Tensor:
        total, change = self.roots[name]
        return torch.cat([(true.numbers + seen.numbers) / total, (true.numbers - seen.numbers) / change], dim=-1)

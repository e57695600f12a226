"""What a decision sends: Shannon rates, or blocks of a scheme that may be lost."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from d2rl.common.errors import named_by
from d2rl.problems.full_duplex.simulator import rates_of
from d2rl.problems.traffic.objective import Decision
from d2rl.problems.traffic.settings import TrafficConfig
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.mcs import GAP_DB, McsTable, sinr_of


class Transmission:
    """From a decision, the channels and what is known of them to what links send.

    :param config: Shannon or schemes
    """

    def __init__(self, config: TrafficConfig):
        self.config, self.adapts = config, config.transmission == "mcs"
        self.table = mcs_table(config.mcs_table) if self.adapts else None

    def sent(
        self, channels: ChannelState, known: ChannelState, decision: Decision, generator: torch.Generator
    ) -> Tensor:
        """What links can send in a slot, 0 of a link whose block was lost: [B, K], bit/s/Hz.

        :param channels: the true ones      :param known: those by which schemes are chosen
        """
        rates = rates_of(channels, *decision).squeeze(1)
        if self.table is None:
            return rates
        table = self.table.to(rates.device)
        scheme = table.choose(sinr_of(rates_of(known, *decision).squeeze(1)), self.config.mcs_losses)
        return table.carried(scheme) * table.acknowledged(sinr_of(rates), scheme, generator)

    def mean(self, channels: ChannelState, known: ChannelState, decision: Decision) -> Tensor:
        """What M decisions for each state send on average, [B, M, K], bit/s/Hz."""
        rates = rates_of(channels, *decision)
        if self.table is None:
            return rates
        table = self.table.to(rates.device)
        scheme = table.choose(sinr_of(rates_of(known, *decision)), self.config.mcs_losses)
        return table.goodput(sinr_of(rates), scheme)

    def promised(self, known: ChannelState, decision: Decision) -> Tensor:
        """What M decisions seem to send on the known channels, [B, M, K]; differentiable in the decision.

        With schemes: the Shannon rate at their distance from Shannon's, up to that of the highest scheme.
        """
        rates = rates_of(known, *decision)
        if self.table is None:
            return rates
        return torch.log2(1 + sinr_of(rates) * 10 ** (-GAP_DB / 10)).clamp_max(float(self.table.efficiency[-1]))


@lru_cache
def mcs_table(path: str | None) -> McsTable:
    """The table of a file, or the standard's. :raises ConfigError: it cannot be used"""
    if path is None:
        return McsTable.standard()
    with named_by("traffic.mcs_table"):
        return McsTable.load(path)

"""The keys of the section ``traffic``: meaning, unit, range and default of each.

Bits are counted in bit/s/Hz-slots: bits over bandwidth and slot, so that a link of rate R sends R of them in a slot.
"""

from __future__ import annotations

from dataclasses import dataclass

from d2rl.config.defaults import option


@dataclass
class TrafficConfig:
    """What arrives for every link, how it waits, and what the learner is told; the cell is the section ``scenario``."""

    load: float = option(1.0, "scales all arrivals; that of evaluations", above=0, high=100)
    load_low: float | None = option(
        None, "training draws each cell's load from here to load_high; null: load", above=0, high=100
    )
    load_high: float | None = option(None, "the same, upper end; null: load", above=0, high=100)
    arrivals: str = option("on_off", "what arrives", choices=("on_off", "poisson"))
    downlink_rate: float = option(2.0, "bit/s/Hz, mean of a downlink user's arrivals at load 1", low=0, high=1e4)
    uplink_rate: float = option(7.0, "bit/s/Hz, mean of an uplink user's arrivals at load 1", low=0, high=1e4)
    on_share: float = option(0.4, "on_off: share of the time in which a link has arrivals", above=0, high=1)
    burst: float = option(5.0, "on_off: slots, mean length of an on period", low=1, high=1e6)
    packet: float = option(1.0, "bit/s/Hz-slots of a packet; 1 is 12.5 kB at 10 MHz and 10 ms", above=0, high=1e6)
    window: int = option(50, "slots over which the throughput of a link is averaged", low=1, high=10**6)
    ages: int = option(
        32, "slots for which the age of a bit is followed; older ones count as of this age", low=2, high=4096
    )

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
    arrivals: str = option(
        "on_off",
        "what arrives: on_off, poisson, periodic, full_buffer or trace; or DOWNLINK+UPLINK, each one kind, or one for "
        "each user with commas, such as on_off+periodic",
    )
    trace: str | None = option(
        None, "trace: .npz or CSV file of slot, link and bits; each cell begins at a slot of its own"
    )
    downlink_rate: float = option(
        12.0, "bit/s/Hz, mean arrivals of all downlink users together at load 1", low=0, high=1e4
    )
    uplink_rate: float = option(28.0, "bit/s/Hz, mean arrivals of all uplink users together at load 1", low=0, high=1e4)
    on_share: float = option(0.4, "on_off: share of the time in which a link has arrivals", above=0, high=1)
    burst: float = option(5.0, "on_off: slots, mean length of an on period", low=1, high=1e6)
    period: int = option(10, "periodic: slots between two packets of a link", low=1, high=10**6)
    packet: float = option(
        1.0, "on_off, poisson: bit/s/Hz-slots of a packet; 1 is 12.5 kB at 10 MHz and 10 ms", above=0, high=1e6
    )
    packet_sizes: str = option(
        "fixed",
        "exponential: those of a link and slot are multiplied by a common factor of mean 1",
        choices=("fixed", "exponential"),
    )
    downlink_buffer: float | None = option(None, "bit/s/Hz-slots that wait at most; null: any", above=0, high=1e9)
    uplink_buffer: float | None = option(None, "the same for an uplink user", above=0, high=1e9)
    downlink_deadline: int | None = option(
        None, "slots within which a bit must be served, or is dropped; 1: in the first; null: any", low=1, high=4095
    )
    uplink_deadline: int | None = option(None, "the same for an uplink user", low=1, high=4095)
    ages: int = option(
        32, "slots for which the age of a bit is followed; older ones count as of this age", low=2, high=4096
    )
    window: int = option(50, "slots over which the throughput of a link is averaged", low=1, high=10**6)
    transmission: str = option(
        "shannon",
        "shannon: a link sends its rate; mcs: a block of the scheme that its known channel bears, sent again where it "
        "is lost",
        choices=("shannon", "mcs"),
    )
    mcs_table: str | None = option(
        None, "mcs: CSV file of order, code_rate and perhaps threshold_db; null: 3GPP TS 38.214, table 5.1.3.1-1"
    )
    mcs_losses: float = option(0.1, "mcs: share of lost blocks at which a scheme is still chosen", above=0, below=1)
    csi_delay: int = option(0, "slots by which the base station's channel estimates are late", low=0, high=100)
    drop_price: float = option(10.0, "slots of waiting that a dropped bit counts as", low=0, high=1e6)
    minimum_rate: float = option(
        0.0, "bit/s/Hz that a link shall have on average over the window while something waits", low=0, high=100
    )
    minimum_price: float = option(10.0, "bit/s/Hz-slots of backlog that a bit/s/Hz below it counts as", low=0, high=1e6)
    energy_price: float = option(
        0.0, "bit/s/Hz-slots of backlog that a radiated mJ counts as; full power is 4 mJ a slot", low=0, high=1e6
    )
    feedback: str = option(
        "dense",
        "what the learner is told. dense: of every link in every slot; scalar: of the cell; report: of the cell, what "
        "has come up since the last report; ack: the bits of every link that were acknowledged, and nothing else",
        choices=("dense", "scalar", "report", "ack"),
    )
    report_slots: int = option(10, "report: slots between two reports", low=1, high=10**4)

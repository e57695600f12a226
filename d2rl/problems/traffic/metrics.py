"""What a policy is worth over episodes with queues."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from d2rl.common.notices import notice_once
from d2rl.problems.traffic.simulator import Record

OVERLOADED = 0.9  # share of the bits that must be served or dropped, else queues have grown all the time,
LONG = 50  # in an episode of so many slots: at the end of a short one some always wait
UNITS = {
    "return": "bit/s/Hz-slots",
    "mean_delay": "slots",
    "delay_p95": "slots",
    "dropped": "share of bits",
    "dropped_late": "share of bits",
    "dropped_full": "share of bits",
    "throughput": "bit/s/Hz",
    "energy_efficiency": "bit/J",
    "jain": "1",
    "short": "share of links and slots",
    "latency_ms": "ms",
}


def summary(total: Record, slots: int, bits: float, waiting: Sequence[int]) -> dict[str, float]:
    """Metrics of B episodes.

    ``mean_delay``: bits that waited over bits that arrived, slots (Little). ``delay_p95``: slots within which 95 % of
    what was served came; both of the links ``waiting``. ``dropped``: share of the bits, of it ``dropped_late`` at a
    deadline and ``dropped_full`` at a full buffer. ``throughput``: of a cell, bit/s/Hz. ``energy_efficiency``: bits for
    each radiated J. ``jain``: Jain's index of what a link was served over what arrived for it, averaged over cells.
    ``short``: share of slots and links below the minimum rate while something waited.

    :param total: summed over ``slots``      :param bits: of a bit/s/Hz-slot
    :param waiting: links whose delays count
    """
    arrived, served, dropped = total.arrived.double(), total.delays.double().sum(-1), total.dropped.double()
    backlog, came = total.backlog[:, waiting].double(), arrived[:, waiting].sum().clamp_min(1e-9)
    share = served / arrived.clamp_min(1e-9)
    jain = share.sum(-1).square() / (share.shape[-1] * share.square().sum(-1)).clamp_min(1e-30)
    offered = arrived.sum().clamp_min(1e-9)
    if slots >= LONG and float((served + dropped)[:, waiting].sum() / came) < OVERLOADED:
        notice_once(
            "more arrives than a policy can serve: its queues grew in every slot, and delays tell how long the episode "
            "was. A lower traffic.load has an equilibrium."
        )
    return {
        "mean_delay": float(backlog.sum() / came),
        "delay_p95": delay_quantile(total.delays[:, waiting], 0.95),
        "dropped": float(dropped.sum() / offered),
        "dropped_late": float(total.late.double().sum() / offered),
        "dropped_full": float(total.refused.double().sum() / offered),
        "throughput": float(served.sum(-1).mean() / slots),
        "energy_efficiency": float(served.sum() * bits / total.energy.double().sum().clamp_min(1e-30)),
        "jain": float(jain.mean()),
        "short": float(total.short.double().mean() / slots),
    }


def delay_quantile(delays: Tensor, share: float) -> float:
    """The delay in slots within which ``share`` of the bits were served.

    :param delays: [B, K, A], bits by delay, from A - 1 slots down to 0
    """
    return float((waiting_longer(delays) <= 1 - share).int().argmax())


def waiting_longer(delays: Tensor) -> Tensor:
    """Share of the bits that waited longer than 0, 1, ... A - 1 slots, [A].

    :param delays: [B, K, A], bits by delay, from A - 1 slots down to 0
    """
    by_delay = delays.double().sum((0, 1))
    longer = (by_delay.cumsum(0) - by_delay).flip(0)
    return longer / by_delay.sum().clamp_min(1e-30)

"""Means of metrics that stay on the device until they are logged."""

from __future__ import annotations

from torch import Tensor


class Means:
    """Adds up values by name; only :meth:`collect` and :meth:`current` wait for the device.

    A sum keeps its place in memory from its first value on, so that a captured update can add to it.

    Example::

        means.add("losses/critic", loss)
        means.collect()  # {"losses/critic": 0.31}
    """

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Count a value in."""
        value = value.detach()
        if name in self.totals:
            self.totals[name].add_(value)
        else:
            self.totals[name] = value.clone()
        self.counts[name] = self.counts.get(name, 0) + 1

    def current(self, name: str) -> float | None:
        """The mean so far, None where nothing was added since the last collection."""
        return float(self.totals[name]) / self.counts[name] if name in self.counts else None

    def collect(self) -> dict[str, float]:
        """The means since the last call, which begin anew."""
        means = {name: float(self.totals[name]) / count for name, count in self.counts.items()}
        for name in means:
            self.totals[name].zero_()
        self.counts = {}
        return means

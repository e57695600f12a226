"""Means of metrics that stay on the device until they are logged."""

from __future__ import annotations

from torch import Tensor


class Means:
    """Adds up values by name; only :meth:`collect` and :meth:`current` wait for the device.

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
        self.totals[name] = self.totals[name] + value if name in self.totals else value
        self.counts[name] = self.counts.get(name, 0) + 1

    def current(self, name: str) -> float | None:
        """The mean so far, None where nothing was added since the last collection."""
        return float(self.totals[name]) / self.counts[name] if name in self.totals else None

    def collect(self) -> dict[str, float]:
        """The means since the last call, which begin anew."""
        means = {name: float(total) / self.counts[name] for name, total in self.totals.items()}
        self.totals, self.counts = {}, {}
        return means

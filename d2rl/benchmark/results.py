"""What a finished cell measured, and cells.csv."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2rl.benchmark.cells import MARKER
from d2rl.benchmark.matrix import Cell
from d2rl.common.files import write_text
from d2rl.evaluation.evaluate import AGENT, AGENT_BEST


@dataclass(frozen=True)
class Result:
    """One cell: rates in bit/s/Hz, times in seconds of the device, latency in ms.

    :param time_to_gap: total training time at which a threshold was passed first, infinite if never
    :param wmmse_ratio: None where the references leave nothing to compare with
    :param gap_closed: likewise
    :param seconds_per_epoch: median over epochs
    :param policies: of eval.json, with the cell's own under the agent's name
    """

    variant: str
    scenario: str
    seed: int
    sum_rate: float
    wmmse_ratio: float | None
    gap_closed: float | None
    best_of_16: float | None
    total_seconds: float
    seconds_per_update: float
    seconds_per_epoch: float
    epochs: int
    updates: int
    time_to_gap: dict[str, float]
    seconds: dict[str, float]
    device: str
    torch: str
    policies: dict[str, dict[str, float]] = field(repr=False)
    folder: Path

    @property
    def outage_sum_rate(self) -> float | None:
        """5 % quantile over drops of the sum rate of one decision."""
        return self.policies[AGENT].get("outage_sum_rate")

    @property
    def outage_best_of_16(self) -> float | None:
        """The same of the best of 16."""
        return self.policies.get(AGENT_BEST, {}).get("outage_sum_rate")

    def row(self) -> dict[str, Any]:
        """One line of cells.csv; empty where a threshold was never reached."""
        shown: tuple[str, ...]
        shown = ("variant", "scenario", "seed", "sum_rate", "wmmse_ratio", "gap_closed", "best_of_16", "total_seconds")
        shown += ("seconds_per_update", "seconds_per_epoch", "epochs", "updates", "outage_sum_rate")
        row = {name: getattr(self, name) for name in shown}
        row |= {f"time_to_gap_{key}": time if math.isfinite(time) else None for key, time in self.time_to_gap.items()}
        row |= {"latency_ms": self.policies[AGENT].get("latency_ms"), "device": self.device, "status": "done"}
        return row | {f"seconds_{name}": seconds for name, seconds in self.seconds.items()}


def read_result(cell: Cell) -> Result:
    """The result of a finished cell."""
    timing, evaluation, marker = (_read(cell.folder / name) for name in ("timing.json", "eval.json", MARKER))
    policies = evaluation["policies"]
    policies[AGENT] = policies.pop(cell.policy)
    final, epochs = policies[AGENT], timing["seconds_per_epoch"]
    return Result(
        variant=cell.variant,
        scenario=cell.scenario,
        seed=cell.seed,
        sum_rate=final["sum_rate"],
        wmmse_ratio=final["wmmse_ratio"],
        gap_closed=final["gap_closed"],
        best_of_16=policies.get(AGENT_BEST, {}).get("sum_rate"),
        total_seconds=timing["total_seconds"],
        seconds_per_update=timing["seconds_per_update"],
        seconds_per_epoch=statistics.median(epochs),
        epochs=len(epochs),
        updates=timing["updates"],
        time_to_gap={key: math.inf if time is None else time for key, time in timing["time_to_gap"].items()},
        seconds=timing["seconds"],
        device=timing["device"],
        torch=marker["torch"],
        policies=policies,
        folder=cell.folder,
    )


def write_cells(path: Path, results: Sequence[Result], failed: Sequence[Cell] = ()) -> None:
    """cells.csv: one line for each cell; a failed one has its name and status only."""
    rows = [result.row() for result in results]
    rows += [{"variant": c.variant, "scenario": c.scenario, "seed": c.seed, "status": "failed"} for c in failed]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))

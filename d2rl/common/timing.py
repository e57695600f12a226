"""Named sections of a training step, and what they cost."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


class Sections:
    """``with sections("critic"): ...`` costs nothing until a profiler takes its place."""

    def __call__(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()


class TimedSections(Sections):
    """Seconds of each section: process time on a CPU, CUDA events on a GPU.

    Process time adds up all threads, so that it is compute spent, not time waited. Events are only read
    by :meth:`read`; until then the device is never waited for.

    :param device: where the work runs
    """

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if self.cuda:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._events.append((name, begin, end))
        else:
            began = time.process_time()
            yield
            self.seconds[name] += time.process_time() - began

    def read(self) -> dict[str, float]:
        """Seconds of every section so far; on a GPU the one place that waits for it."""
        if self._events:
            self._events[-1][2].synchronize()
            for name, begin, end in self._events:
                self.seconds[name] += begin.elapsed_time(end) / 1e3
            self._events = []
        return dict(self.seconds)

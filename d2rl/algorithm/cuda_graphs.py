"""Updates that are captured once and replayed: ``trainer.cuda_graphs``.

A small network's update is hundreds of short kernels, and on a GPU their launches cost more than their work. A CUDA
graph launches them all at once. What it launches is fixed: no Python runs, every tensor keeps its address, and every
Python number is the one of the capture. So there is one graph for each kind of update, and what changes between
updates lies on the device: learning rates, the filled part of the replay, sums of metrics, rows of the slot's states.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from d2rl.algorithm.capturable import ElementaryAlgebra, Watched, cusolver, refused_operators
from d2rl.common.errors import TrainingError
from d2rl.common.timing import Sections
from d2rl.problems.base import Rows

if TYPE_CHECKING:
    from d2rl.algorithm.agent import D2RL

Work = Callable[[], None]


class Recorder(Protocol):
    """Executes work, and records it as something that can be executed again without Python."""

    def rehearse(self, work: Work) -> None:
        """Execute work as it will be recorded, so that all that it sets up at its first execution is there."""

    def record(self, work: Work) -> Work:
        """Execute work and record it; the function returned executes it again, over the same tensors."""


class CudaGraphs:
    """Records CUDA graphs, which share one stream and one memory pool.

    Sharing is safe whatever the order of replays: they never overlap, and what an update leaves for others lies in
    tensors that were made outside of the graphs, so that one may overwrite what another computed on the way. Gradients
    are such passing values: between updates, ``grad`` of a weight holds anything.

    :param generator: of the random numbers that are drawn in the work, each replay the next ones
    """

    def __init__(self, generator: torch.Generator):
        self.generator, self.refused = generator, refused_operators(generator.device)
        self.stream, self.pool = torch.cuda.Stream(generator.device), torch.cuda.graph_pool_handle()

    def rehearse(self, work: Work) -> None:
        """Execute work on the stream of the captures: libraries set up handles and workspaces for a stream."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream), self._capturable_algebra():
            work()
        torch.cuda.current_stream().wait_stream(self.stream)

    def record(self, work: Work) -> Work:
        """Capture work, which executes nothing, and replay it.

        :raises RuntimeError: an operation that cannot be captured
        """
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        graph.register_generator_state(self.generator)  # else a graph knows the default generator alone
        gc.collect()  # graphs of an earlier agent that are freed in the middle of a capture would break it
        try:
            with self._capturable_algebra(), torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                work()
        except BaseException:
            torch.cuda.set_stream(current)  # a capture that failed leaves its own stream behind
            raise
        graph.replay()
        return graph.replay

    @contextmanager
    def _capturable_algebra(self) -> Iterator[None]:
        """A library's linear algebra, or that of elementary operators where the library refuses to be captured."""
        with cusolver(), ElementaryAlgebra() if self.refused else nullcontext():
            yield


class CapturedUpdates:
    """Makes an agent's updates: the first of a kind eagerly, the second while it is recorded, all others as replays.

    Numbers are those of updates that are not captured: random numbers come from the same stream, and what Python
    counts in an update is noted when it is recorded and counted again with every replay.

    Example, in a callback's ``on_train_start``::

        agent.captured = CapturedUpdates(agent, CudaGraphs(agent.generator))

    :param agent: on the device of the recorder, its optimizers with learning rates on that device
    :param recorder: :class:`CudaGraphs`
    """

    def __init__(self, agent: D2RL, recorder: Recorder):
        self.agent, self.recorder = agent, recorder
        self.kinds: dict[Hashable, Work | None] = {}  # None: rehearsed
        self.inputs: dict[int, dict[str, Rows]] = {}

    def __call__(self, rows: Mapping[str, Rows] | None) -> None:
        """One update, timed as the section ``update``: events inside a graph would time its capture.

        :param rows: those of :meth:`D2RL.update`
        :raises TrainingError: an operation that cannot be captured
        """
        agent = self.agent
        sections, agent.sections = agent.sections, Sections()
        try:
            with sections("update"):
                kept = None if rows is None else self._kept(rows)
                self._perform(agent.kind_of_update(), lambda: agent.update(kept))
        finally:
            agent.sections = sections

    def _perform(self, kind: Hashable, work: Work) -> None:
        if kind not in self.kinds:
            self.recorder.rehearse(work)
            self.kinds[kind] = None
        elif (replay := self.kinds[kind]) is not None:
            replay()
        else:
            self.kinds[kind] = self._recorded(work)

    def _recorded(self, work: Work) -> Work:
        """Execute work and record it, with what it counts in Python."""
        agent = self.agent
        groups = [group for optimizer in agent.optimizers() for group in optimizer.param_groups]
        steps, counts = agent.steps, Counter(agent.means.counts)
        try:
            for group in groups:  # says that step counts are on the device, as those of fused optimizers always are
                group["capturable"] = True
            with Watched() as watched:
                again = self.recorder.record(work)
        except RuntimeError as error:
            # leaving a capture that failed fails again, and says less
            first = error.__context__ if isinstance(error.__context__, RuntimeError) else error
            reason = str(first).strip().partition("\n")[0]
            raise TrainingError(
                f"trainer.cuda_graphs=true: an update cannot be captured as a CUDA graph ({reason}; {watched}); "
                "set trainer.cuda_graphs=false."
            ) from error
        finally:
            for group in groups:
                group["capturable"] = False
        steps, counts = agent.steps - steps, Counter(agent.means.counts) - counts

        def replay() -> None:
            again()
            agent.steps += steps
            for name, count in counts.items():
                agent.means.counts[name] = agent.means.counts.get(name, 0) + count
            _count_in_trainer(agent, steps)

        return replay

    def _kept(self, rows: Mapping[str, Rows]) -> dict[str, Rows]:
        """The rows in tensors that stay where they are, one set for each world."""
        world = self.agent.visited
        if world not in self.inputs:
            self.inputs[world] = {name: one.map(torch.clone) for name, one in rows.items()}
        else:
            torch._foreach_copy_(_tensors(self.inputs[world]), _tensors(rows))
        return self.inputs[world]


def _tensors(rows: Mapping[str, Rows]) -> list[Tensor]:
    return [tensor for one in rows.values() for tensor in one.tensors().values()]


def _count_in_trainer(agent: D2RL, steps: int) -> None:
    """Lightning's ``global_step`` is the number of optimizer steps, by which it knows what it has saved."""
    optimizer = agent.optimizers()[0]
    if isinstance(optimizer, LightningOptimizer):
        for _ in range(steps):
            optimizer._on_before_step()
            optimizer._on_after_step()

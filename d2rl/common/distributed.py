"""One run in several processes, each with its share of the cells, the replay and the batches.

Gradients and what else decides how the run goes on (judgements of callbacks, skipped steps, running moments) go through
the functions here, so that every process decides alike. In a run of one process they change nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor

from d2rl.common.command_line import USER_ERROR
from d2rl.common.errors import ConfigError, RunError, typed
from d2rl.config.defaults import RunConfig, TrainerConfig
from d2rl.config.load import processes

GRACE = 20.0  # seconds to end by itself, once another process has
LAST_WORDS = 2.0  # seconds for the others to end by themselves, once the first process does
TRANSPORTS = ("gloo", "nccl", "connection reset", "connection closed", "broken pipe")  # in what their errors say


def launch_rank(config: TrainerConfig) -> int:
    """The number of this process among them, known before they have met; 0 writes the run directory.

    :raises ConfigError: Slurm has started other processes than the run has
    """
    if processes(config) == 1:
        return 0
    for environment in (TorchElasticEnvironment, SLURMEnvironment):
        if environment.detect():
            try:
                found = environment()
                found.validate_settings(config.devices, config.nodes)
            except (RuntimeError, ValueError):
                raise ConfigError(
                    f"trainer.devices={config.devices} and trainer.nodes={config.nodes} are not what Slurm started; "
                    f"start one task for each process: srun --nodes={config.nodes} --ntasks-per-node={config.devices}."
                ) from None
            return found.global_rank()
    here = LightningEnvironment()
    return here.node_rank() * config.devices + int(os.environ.get("LOCAL_RANK", 0))


def strategy(config: TrainerConfig) -> Any:
    """Lightning's strategy: one process, or several that meet as for DDP, when asked for or when there are several."""
    return "auto" if config.strategy == "auto" and processes(config) == 1 else _Together()


def plugins(config: TrainerConfig) -> list[Any]:
    """Lightning's plugins for the processes: one alone is not Slurm's business, whatever it was allotted."""
    return [LightningEnvironment()] if processes(config) == 1 else []


class _Together(DDPStrategy):
    """Processes that meet as for DDP. A learner's step averages its own gradients (:func:`average_`); DDP, which knows
    one loss for the whole module, would exchange those of all learners in the step of each.
    """

    def configure_ddp(self) -> None:
        """Begin with the weights of the first process."""
        assert self.model is not None
        for tensor in self.model.state_dict().values():
            dist.broadcast(tensor, 0)

    def _configure_launcher(self) -> None:
        self._launcher = _Launcher(self.cluster_environment, self.num_processes, self.num_nodes)


class _Launcher(_SubprocessScriptLauncher):
    """Lightning's, without its own idea of threads, and with an end that says why."""

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Start the other processes of this node, then call ``function``."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        done = threading.Event()
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            threading.Thread(target=_watch, args=(self.procs, done), daemon=True).start()
        try:
            return function(*args, **kwargs)
        except BaseException:
            _end(self.procs)
            raise
        finally:
            done.set()


def _end(others: list[subprocess.Popen]) -> None:
    """See that nobody is left who would take the end of this process for a loss, and say so."""
    deadline = time.monotonic() + LAST_WORDS
    for process in others:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        process.kill()


def outlives(parent: int) -> bool:
    """Whether the process that started this one has gone, or goes now: its connections close before it has ended.

    :param parent: its number
    """
    deadline = time.monotonic() + 2 * LAST_WORDS
    while (alive := os.getppid() == parent) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive


def _watch(others: list[subprocess.Popen], done: threading.Event) -> None:
    """End this process if it still waits for one that has gone, and so is deaf to anything else."""
    while not done.wait(1.0):
        statuses = [process.poll() for process in others]
        if any(statuses) and not done.wait(GRACE):
            for process in others:
                process.kill()
            print(_lost(f"status {next(filter(None, statuses))}", None), file=sys.stderr, flush=True)
            os._exit(USER_ERROR)


@contextmanager
def losses_told(config: TrainerConfig, checkpoint: Path) -> Iterator[None]:
    """One message, and no traceback of the transport, when another process of the run is lost.

    :param checkpoint: to go on from
    :raises RunError: it is lost
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if processes(config) == 1 or not any(name in text.lower() for name in TRANSPORTS):
            raise
        reason = text.partition("] ")[2].partition(". ")[0] or text.splitlines()[0]
        raise _lost(reason, checkpoint if checkpoint.exists() else None) from None


def _lost(reason: str, checkpoint: Path | None) -> RunError:
    remedy = f"go on with {typed('resume', checkpoint)}" if checkpoint else "resume= its run directory, or begin anew"
    return RunError(f"another process of this run has ended or is out of reach ({reason}); {remedy}.")


def share(config: RunConfig) -> RunConfig:
    """The configuration of what one process holds."""
    count = processes(config.trainer)
    return replace(
        config,
        trainer=replace(config.trainer, num_envs=config.trainer.num_envs // count),
        ddpg=replace(
            config.ddpg,
            **{name: getattr(config.ddpg, name) // count for name in ("replay", "batch", "critic_batch")},
        ),
    )


def world_size() -> int:
    """Processes that have met; 1 outside a distributed run."""
    return dist.get_world_size() if _met() else 1


def rank() -> int:
    """The number of this process among them."""
    return dist.get_rank() if _met() else 0


@torch.no_grad()
def average_(*tensors: Tensor) -> None:
    """Replace tensors by their means over all processes, in one message."""
    if world_size() > 1 and tensors:
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = (flat / world_size()).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def largest_(tensor: Tensor) -> None:
    """Replace a tensor by the largest of all processes.

    :param tensor: of the same shape in all of them
    """
    if world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)


def mean(value: float, device: torch.device) -> float:
    """Mean of a number over all processes."""
    return means({"": value}, device)[""]


def largest(value: int, device: torch.device) -> int:
    """Largest of a number over all processes."""
    if world_size() == 1:
        return value
    number = torch.tensor(value, device=device)
    largest_(number)
    return int(number)


def total(value: int, device: torch.device) -> int:
    """Sum of a count over all processes."""
    return round(mean(float(value), device) * world_size())


def means(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """Means of numbers over all processes, which must bring the same names."""
    if world_size() == 1 or not values:
        return values
    names = sorted(values)
    numbers = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device)
    average_(numbers)
    return dict(zip(names, numbers.tolist(), strict=True))


def gather(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The nested containers of all processes on the first one, by rank; elsewhere this process's own alone."""
    if world_size() == 1:
        return [state]
    states: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(move_data_to_device(state, "cpu"), states)  # where any process can receive them
    return states or [state]


def _met() -> bool:
    return dist.is_available() and dist.is_initialized()

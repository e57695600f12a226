"""Where cells run: processes of this machine, or tasks of a Ray cluster."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from d2rl.benchmark import cells
from d2rl.benchmark.matrix import Cell, Matrix
from d2rl.common.errors import ConfigError


class LocalLauncher:
    """Starts cells, each in a process of this machine.

    :param slots: of them at a time
    """

    def __init__(self, slots: int):
        self.slots = slots

    def start(self, cell: Cell) -> Job:
        return cells.start(cell)


RESTARTS = 3  # of a cell whose worker or node is lost


class RayLauncher(LocalLauncher):
    """A Ray task for each cell; ``out`` must lie on a file system that all nodes share, at the same path.

    There a cell that starts from another finds its checkpoint.

    It joins the cluster that RAY_ADDRESS names or that runs on this machine, else starts one here. A cell whose node
    is lost begins anew on another; one that fails by itself does not.

    :param slots: tasks at a time, 0: as many as the cluster has cores (or GPUs)
    :param gpu: whether a cell needs a GPU
    """

    def __init__(self, slots: int, gpu: bool):
        try:
            import ray
        except ImportError:
            raise ConfigError(
                "launcher=ray needs Ray, which is not installed: pip install ray, or keep launcher=local."
            ) from None
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or Ray reports to its makers
        self.ray, self.gpu = ray, gpu
        if not ray.is_initialized():
            ray.init(log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(_python_path())}})
        self.slots = slots or max(1, int(ray.cluster_resources().get("GPU" if gpu else "CPU", 1)))

    def start(self, cell: Cell) -> Job:
        needs = {"num_cpus": cell.config.trainer.threads or 1, "num_gpus": int(self.gpu), "max_retries": RESTARTS}
        return RayJob(self.ray, self.ray.remote(cells.run).options(**needs).remote(cell))


class RayJob:
    """A cell that runs as a Ray task, with what is asked of a process."""

    def __init__(self, ray: Any, task: Any):
        self.ray, self.task = ray, task

    def poll(self) -> int | None:
        """Exit status, None while it runs; a task that was lost too often has failed."""
        if not self.ray.wait([self.task], timeout=0)[0]:
            return None
        try:
            return self.ray.get(self.task)
        except self.ray.exceptions.RayError:
            return 1

    def kill(self) -> None:
        """End it; its process ends with the worker."""
        self.ray.cancel(self.task, force=True)


Job = subprocess.Popen | RayJob


def make_launcher(matrix: Matrix) -> LocalLauncher:
    """The launcher that the configuration asks for. :raises ConfigError: it is not installed"""
    config, gpu = matrix.config, _on_gpu(matrix)
    if config.launcher == "ray":
        return RayLauncher(config.jobs, gpu)
    return LocalLauncher(config.jobs or (1 if gpu else _cores()))


def _cores() -> int:
    """CPU cores that this process may use, or that there are where the system does not tell (macOS, Windows)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _on_gpu(matrix: Matrix) -> bool:
    """Whether cells run on a GPU; two on the same one would spoil each other's times."""
    if all(cell.config.trainer.accelerator == "cpu" for cell in matrix.cells):
        return False
    import torch

    return torch.cuda.is_available()


def _python_path() -> list[str]:
    root = str(cells.Path(cells.__file__).resolve().parents[2])
    return [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]

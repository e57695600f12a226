"""The process belongs to whoever calls d2rl: what a call changes there is put back at its end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from d2rl.common.errors import ConfigError, counted
from d2rl.config.defaults import TrainerConfig


@contextmanager
def left_as_found(threads: int) -> Iterator[None]:
    """Work on ``threads`` CPU threads, then give back threads, random numbers, environment, hooks and Ctrl-C.

    Example::

        with left_as_found(config.trainer.threads):
            report = score_agent(agent, evaluation, rule)

    :param threads: of torch; 0 leaves as many as there are
    """
    found = torch.get_num_threads()
    torch.set_num_threads(threads or found)
    try:
        with torch.random.fork_rng(devices=[]), surroundings_kept():
            yield
    finally:
        torch.set_num_threads(found)


@contextmanager
def surroundings_kept() -> Iterator[None]:
    """Give back environment variables, exit hooks and the handling of Ctrl-C, which W&B and Lightning change."""
    environment = dict(os.environ)
    leave, hook, interrupt = sys.exit, sys.excepthook, signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and interrupt is not None:
            signal.signal(signal.SIGINT, interrupt)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        sys.exit, sys.excepthook = leave, hook


def accelerator_device(name: str, devices: int = 1) -> torch.device:
    """The torch device of ``trainer.accelerator``.

    :param devices: GPUs that this machine must have
    :raises ConfigError: a GPU that is not there
    """
    if name == "gpu" and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator=gpu, but torch sees no GPU here; use trainer.accelerator=cpu")
    device = torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise ConfigError(
            f"trainer.devices={devices}, but torch sees {counted(torch.cuda.device_count(), 'GPU')} here."
        )
    return device


def training_device(config: TrainerConfig) -> torch.device:
    """The torch device of a training.

    :raises ConfigError: a GPU that is not there
    """
    device = accelerator_device(config.accelerator, config.devices)
    if config.cuda_graphs and device.type != "cuda":
        raise ConfigError(
            "trainer.cuda_graphs=true needs a GPU, and torch sees none here; set trainer.cuda_graphs=false."
        )
    return device

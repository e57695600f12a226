"""The process belongs to whoever calls d2rl: what a call changes there is put back at its end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from d2rl.common.errors import ConfigError, counted, first_line
from d2rl.config.defaults import TrainerConfig

REMEDIES = {  # by what torch says
    "driver on your system is too old": "update the driver, or install a PyTorch for the CUDA version of this one",
    "no NVIDIA driver": "install one where there is a GPU",
    "No CUDA GPUs are available": "let CUDA_VISIBLE_DEVICES name one where there is a GPU",
    "not compiled with CUDA": "install a PyTorch with CUDA",
}


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


def accelerator_device(name: str, devices: int = 1, key: str = "trainer.accelerator") -> torch.device:
    """The torch device of ``trainer.accelerator``.

    :param devices: GPUs that this machine must have
    :param key: of a command that has the name from another one
    :raises ConfigError: a GPU that is not there
    """
    if name == "gpu" and not _sees_gpu():
        raise ConfigError(f"{key}=gpu, but torch sees no GPU here: {no_gpu_reason()}, or use {key}=cpu.")
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
            f"trainer.cuda_graphs=true needs a GPU, and torch sees none here: {no_gpu_reason()}, or set "
            "trainer.cuda_graphs=false."
        )
    return device


def no_gpu_reason() -> str:
    """Why torch sees no GPU, as it says itself, and what to do about it."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # the latter of a build without CUDA
        told = first_line(error)
    else:
        told = "all are hidden"
    reason, _, code = told.partition("Error ")
    reason = reason.partition(". ")[0].rstrip(". ") + (f", error {code}" if code else "")
    remedy = next((remedy for part, remedy in REMEDIES.items() if part in told), "see what nvidia-smi says")
    return f"{reason}; {remedy}"


def _sees_gpu() -> bool:
    """As torch, whose warning of a GPU that it cannot use is told as the reason of a refusal."""
    with warnings.catch_warnings(action="ignore"):
        return torch.cuda.is_available()

"""A notebook, or another program, that calls d2rl finds its process as it was."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.decisions import decision_rule
from d2rl.commands.train_eval import evaluate_command, train_command
from d2rl.common.errors import ConfigError
from d2rl.common.host import accelerator_device, left_as_found, training_device
from d2rl.config.defaults import TrainerConfig
from d2rl.evaluation import evaluate as evaluation
from d2rl.evaluation.evaluate import Evaluation, score_agent
from d2rl.problems.full_duplex import references
from d2rl.problems.full_duplex.problem import FullDuplexProblem
from d2rl.runs.run_directory import RunDirectory
from d2rl.training.train import train

ROOT = Path(__file__).resolve().parents[2]
THREADS = 3  # of the caller

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def process() -> dict[str, Any]:
    """What a caller may rely on."""
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "random": random.getstate(),
        "environment": dict(os.environ),
        "handlers": [*logging.root.handlers],
        "levels": {name: logging.getLogger(name).level for name in ("", "d2rl", "lightning.pytorch", "asyncio")},
        "logging": (logging.raiseExceptions, logging.root.manager.disable),
        "filters": [*warnings.filters],
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "exit": (sys.exit, sys.excepthook),
        "output": (sys.stdout, sys.stderr),
    }


@pytest.fixture(autouse=True)
def quick_references(monkeypatch):
    """What is timed, and how well WMMSE does, is tested elsewhere."""
    monkeypatch.setattr(evaluation, "LATENCY_SECONDS", 0.0)
    monkeypatch.setattr(references, "LIMIT", 2)


@pytest.fixture(autouse=True)
def caller(monkeypatch):
    """A process with threads of its own and without traces of other tests."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> Path:
    """A run to evaluate."""
    path = tmp_path_factory.mktemp("host") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(references, "LIMIT", 2)
        config = tiny("trainer.epochs=1", f"run_dir={path}")
        train(config, RunDirectory.create(config, "test"))
    return path


def differing(before: dict[str, Any]) -> list[str]:
    after = process()
    return [name for name in before if before[name] != after[name]]


def test_a_training_leaves_the_process_as_it_was(tiny_arguments, tmp_path):
    """With dashboards and figures. Twice, since libraries that are imported on the way have their own habits."""
    given = [*tiny_arguments, "trainer.epochs=1", "logger.mode=offline"]
    environment = dict(os.environ)
    train_command([*given, f"run_dir={tmp_path / 'first'}"])
    assert (dict(os.environ), torch.get_num_threads()) == (environment, THREADS)
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(5)
    before = process()
    train_command([*given, f"run_dir={tmp_path / 'second'}"])
    assert differing(before) == []


def test_a_training_that_fails_leaves_it_too(tiny, tmp_path, monkeypatch):
    def broken(agent: D2RL) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(D2RL, "learn", broken)
    config, before = tiny("logger.mode=offline", f"run_dir={tmp_path / 'run'}"), process()
    run = RunDirectory.create(config, "test")
    with pytest.raises(ZeroDivisionError):
        train(config, run)
    assert differing(before) == []


def test_a_gpu_that_is_there_is_used():
    assert accelerator_device("cpu").type == "cpu"
    if torch.cuda.is_available():
        assert accelerator_device("gpu").type == "cuda"


OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: "
    "https://pytorch.org to install a PyTorch version that has been compiled with your version of the CUDA driver."
)
HINDERED = (
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() that "
    "might have already set an error? Error 804: forward compatibility was attempted on non supported HW"
)
NONE = (RuntimeError, "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            (RuntimeError, OLD),
            r"system is too old \(found version 11040\); update the driver, or install",
        ),
        ((RuntimeError, HINDERED), r"cudaGetDeviceCount\(\), error 804: forward compatibility .* nvidia-smi"),
        ((RuntimeError, "No CUDA GPUs are available"), "No CUDA GPUs are available; let CUDA_VISIBLE_DEVICES name one"),
        (NONE, "Found no NVIDIA driver on your system; install one"),
        ((AssertionError, "Torch not compiled with CUDA enabled"), "CUDA enabled; install a PyTorch with CUDA"),
    ],
    ids=["old driver", "other error", "all hidden", "no driver", "no CUDA"],
)
def test_a_gpu_that_torch_cannot_use_is_refused_with_its_reason(monkeypatch, error, message):
    kind, text = error

    def refused() -> None:
        raise kind(text)

    def seen() -> bool:
        warnings.warn(f"CUDA initialization: {text}", stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", seen)
    monkeypatch.setattr(torch.cuda, "init", refused)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the one message says it all
        for key in ("trainer.accelerator", "device"):
            with pytest.raises(ConfigError, match=rf"{key}=gpu, but torch sees no GPU.*{message}.*, or use {key}=cpu"):
                accelerator_device("gpu", key=key)
    with pytest.raises(ConfigError, match=rf"cuda_graphs=true needs a GPU.*{message}.* trainer\.cuda_graphs=false"):
        training_device(TrainerConfig(accelerator="auto", cuda_graphs=True))


def test_an_evaluation_leaves_it_too(trained, tmp_path):
    before = process()
    evaluate_command([f"ckpt={trained}", f"out={tmp_path}", "drops=4"])
    assert differing(before) == []


def test_weights_are_drawn_from_the_seed_alone(tiny):
    torch.manual_seed(1)
    first = D2RL(tiny()).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second, other = D2RL(tiny()).state_dict(), D2RL(tiny("seed=1")).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_decisions_are_timed_on_the_threads_of_the_training_by_every_way(tiny, tiny_arguments, trained, monkeypatch):
    """train.py and eval.py report latencies that can be compared."""
    monkeypatch.setattr("d2rl.report.page.save_report_page", lambda *_: None)
    seen: list[int] = []
    monkeypatch.setattr(Evaluation, "latency", lambda *_: float(seen.append(torch.get_num_threads()) or 1))
    train_command([*tiny_arguments, "trainer.epochs=1", f"run_dir={trained.parent / 'other'}"])
    evaluate_command([f"ckpt={trained}", f"out={trained.parent / 'out'}", "drops=4"])
    config = tiny("trainer.threads=2")
    score_agent(D2RL(config), Evaluation(FullDuplexProblem(config.scenario), 4, 0), decision_rule(config))
    policies = len(seen) // 3
    assert seen == policies * [1] + policies * [1] + policies * [2]


def test_a_training_uses_the_threads_that_are_asked_for(tiny, tmp_path, monkeypatch):
    seen, learn = set(), D2RL.learn

    def watched(agent: D2RL) -> None:
        seen.add(torch.get_num_threads())
        learn(agent)

    monkeypatch.setattr(D2RL, "learn", watched)
    config = tiny("trainer.threads=2", "trainer.epochs=1", f"run_dir={tmp_path / 'run'}")
    train(config, RunDirectory.create(config, "test"))
    assert seen == {2}


def test_no_threads_asked_for_means_those_that_there_are():
    with left_as_found(0):
        assert torch.get_num_threads() == THREADS


IMPORT = """
import logging, os, sys, warnings
import gymnasium, lightning.pytorch.callbacks, lightning.pytorch.loggers, matplotlib, torch, torchmetrics, wandb
import wandb.errors
for name in ("fcntl", "resource"):
    sys.modules[name] = None
del os.sched_getaffinity, os.sysconf
def process():
    return {
        "environment": dict(os.environ),
        "handlers": [*logging.root.handlers],
        "filters": [*warnings.filters],
        "threads": torch.get_num_threads(),
        "random": torch.get_rng_state().tolist(),
        "backend": matplotlib.rcParams._get("backend"),
    }
before = process()
import d2rl.commands.train_eval, d2rl.deploy.export, d2rl.commands.make_channel_bank
import d2rl.benchmark.command, d2rl.commands.workspace, d2rl.commands.make_pretrained
after = process()
print([name for name in before if before[name] != after[name]])
"""


@pytest.mark.slow
def test_an_import_needs_no_linux_and_changes_nothing():
    """Without what Windows lacks; neither a backend for figures is chosen nor W&B's mode."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", IMPORT], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_run_goes_on_in_the_process_that_made_it(tiny_arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("d2rl.report.page.save_report_page", lambda *_: None)
    given = [*tiny_arguments, "trainer.epochs=1", f"run_dir={tmp_path / 'run'}"]
    train_command(given)
    train_command([f"resume={tmp_path / 'run'}", "trainer.epochs=2", "trainer.progress=false"])
    with pytest.raises(ConfigError, match="already holds a run"):
        train_command(given)

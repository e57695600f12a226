"""Windows and macOS, as far as Linux can show them: what they lack is taken away."""

from __future__ import annotations

import os
import platform

import pytest
import torch

from d2rl.benchmark import launchers
from d2rl.benchmark.runner import held
from d2rl.commands.train_eval import evaluate_command, train_command
from d2rl.common import files
from d2rl.common.errors import ConfigError
from d2rl.common.host import accelerator_device
from d2rl.evaluation import evaluate as evaluation
from d2rl.problems.full_duplex import references
from d2rl.runs.run_directory import RunDirectory
from d2rl.training import memory
from d2rl.training.footprint import check_footprint
from d2rl.training.train import train

CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def windows(monkeypatch):
    """No fcntl, no resource, no sysconf, no affinity, no /proc."""
    monkeypatch.setattr(files, "fcntl", None)
    monkeypatch.setattr(memory, "resource", None)
    monkeypatch.setattr(memory, "CGROUPS", ())
    monkeypatch.setattr(memory, "_read", lambda path: (_ for _ in ()).throw(FileNotFoundError(path)))
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.delattr(os, "sched_getaffinity")


@pytest.fixture
def macos(monkeypatch):
    """A GPU that knows neither complex nor double numbers, and no affinity."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    monkeypatch.delattr(os, "sched_getaffinity")


def test_windows_trains_and_evaluates(windows, tiny_arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "LATENCY_SECONDS", 0.0)
    monkeypatch.setattr(references, "LIMIT", 2)
    monkeypatch.setattr("d2rl.report.page.save_report_page", lambda *_: None)
    train_command([*tiny_arguments, "trainer.epochs=1", f"run_dir={tmp_path / 'run'}"])
    evaluate_command([f"ckpt={tmp_path / 'run'}", "drops=2"])
    assert "GiB (how much is free is unknown here)" in capsys.readouterr().out
    assert (tmp_path / "run/eval.json").is_file()


def test_a_directory_without_locks_is_still_kept_from_a_second_run(windows, tiny, tmp_path):
    config = tiny(f"run_dir={tmp_path / 'run'}")
    run = RunDirectory.create(config, "test")
    run.secure()
    run.metrics.write_text("environment_steps\n")
    with pytest.raises(ConfigError, match="already holds a run"):
        RunDirectory.create(config, "test")
    with held(tmp_path / "matrix"), held(tmp_path / "matrix"):
        assert (tmp_path / "matrix").is_dir()


def test_memory_that_nobody_can_tell_refuses_nothing(windows, tiny):
    check_footprint(tiny(), CPU)
    memory.check_memory(tiny("ddpg.replay=1000000000"), CPU)


def test_a_limit_without_proc_is_left_out(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(memory, "_read", lambda path: (_ for _ in ()).throw(FileNotFoundError(path)))
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (1, 1))
    assert memory.available_bytes(CPU) > 1


def test_cells_run_side_by_side_on_all_cores_where_affinity_is_unknown(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert launchers._cores() == 7


def test_auto_never_means_a_gpu_without_complex_numbers(macos, tiny, tmp_path):
    config = tiny("trainer.epochs=1", "trainer.accelerator=auto", f"run_dir={tmp_path / 'run'}")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert accelerator_device("auto").type == expected
    assert train(config, RunDirectory.create(config, "test")).agent.device.type == expected

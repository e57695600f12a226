"""``benchmarks/gpu.py`` rehearsed on the CPU, at tiny sizes: every part gives a result, and none stops another."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY

from d2rl.common.errors import ConfigError
from d2rl.config.load import load

QUICK = ("device=cpu", "rounds=1", "seconds=0.01", "matrix=32", "megabytes=1")
SETTINGS = tuple(one for one in TINY if not one.startswith(("trainer.progress", "logger.")))  # a matrix has its own
SMALL = (
    *SETTINGS,
    "evaluation.drops=8",
    "trainer.epochs=1",
    "trainer.updates_per_epoch=10",
    "trainer.updates_per_step=10",
)


@pytest.fixture
def gpu(script, monkeypatch):
    """The script as a module, with one small variant."""
    script = script("gpu")
    parts = script.gpu_parts
    monkeypatch.setattr(parts, "GIVEN", SMALL)
    monkeypatch.setattr(parts, "VARIANTS", {"D2RL": ["conf=full_duplex", "trainer.num_envs=4"]})
    monkeypatch.setattr(parts, "CELLS", (1, 2))
    monkeypatch.setattr(parts, "STATES", (8,))
    monkeypatch.setattr(parts, "MOST_KINDS", 10)
    monkeypatch.setattr(parts, "SEEDS", 1)
    monkeypatch.setattr(parts, "REPLAY", 16)
    return script


def performed(script, out: Path, *names: str) -> dict[str, dict]:
    """What is in the files after running parts in this process, each with next to no time."""
    asked = load([*QUICK, f"out={out}"], script.GpuConfig)
    value = SimpleNamespace(value=0)
    script.work(asked, list(names), 0, time.time() + 0.01, SimpleNamespace(part=value, end=value))
    return {name: json.loads((out / f"{name}.json").read_text()) for name in names}


@pytest.mark.slow
def test_every_part_gives_a_result_within_its_least_work(gpu, tmp_path):
    found = performed(gpu, tmp_path, *gpu.PARTS)
    assert all(part["results"] and "error" not in part for part in found.values())


@pytest.mark.slow
def test_what_matters_of_updates_and_trainings_is_in_the_files(gpu, tmp_path):
    found = {name: part["results"] for name, part in performed(gpu, tmp_path, "capture", "updates", "headline").items()}
    assert found["capture"]["D2RL"] == {"waits": [], "captured": None}
    assert found["updates"]["D2RL"]["plain updates / s"] > 0
    (run,) = found["headline"]
    assert (run["variant"], run["captured"], run["updates"]) == ("ddpg", False, 10)
    assert run["time_to_gap"].keys() == {"0.70", "0.80", "0.90"}


@pytest.mark.slow
def test_the_seeds_part_goes_on_where_the_headline_stopped(gpu, tmp_path):
    found = performed(gpu, tmp_path, "headline", "seeds")
    first, second = (found[name]["results"][0]["variant"] for name in ("headline", "seeds"))
    assert (first, second) == ("ddpg", "a_r_s_m50_eta01")


def test_a_part_that_fails_says_why_and_ends_its_process(gpu, tmp_path, monkeypatch):
    def broken(*_) -> None:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setitem(gpu.PARTS, "memory", gpu.gpu_parts.Part(broken, 1))
    with pytest.raises(SystemExit):
        performed(gpu, tmp_path, "memory")
    assert "illegal memory access" in json.loads((tmp_path / "memory.json").read_text())["error"]


@pytest.mark.slow
def test_the_command_goes_on_after_a_part_that_failed_and_keeps_its_minutes(gpu, tmp_path):
    began = time.time()
    gpu.gpu_command([*QUICK, f"out={tmp_path}", "parts=machine,cells", "minutes=0.2"])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["not begun"] == []
    assert time.time() - began < 60 * 0.2 + gpu.GRACE + 30
    assert json.loads((tmp_path / "cells.json").read_text())["results"]


@pytest.fixture
def no_gpu(monkeypatch):
    def refused() -> None:
        raise RuntimeError("Found no NVIDIA driver on your system. Please check")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", refused)


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_written(gpu, tmp_path, no_gpu):
    with pytest.raises(ConfigError, match=r"device=gpu, but torch sees no GPU here: Found no NVIDIA driver"):
        gpu.gpu_command([f"out={tmp_path / 'out'}", "device=gpu"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_rehearsal_that_nobody_asked_for_is_told(gpu, tmp_path, no_gpu, monkeypatch, capsys, device):
    """And a part that failed, whose file says why."""

    def failing(asked, names, first, *_):
        gpu.note(asked, names[first], "its process ended with status 1")
        return first + 1

    monkeypatch.setattr(gpu, "supervised", failing)
    gpu.gpu_command([f"out={tmp_path}", f"device={device}", "parts=machine"])
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("a rehearsal on the CPU") == (device == "auto")
    assert "machine failed: its process ended with status 1" in [first, *others]


@pytest.mark.parametrize("change", [[], ["out=x", "parts=capture,speed"]])
def test_a_folder_that_is_missing_and_a_part_that_is_none_are_named(gpu, change):
    with pytest.raises(
        ConfigError, match=r"parts=capture,speed: speed is no part" if change else r"out=DIR is missing"
    ):
        gpu.gpu_command(change)

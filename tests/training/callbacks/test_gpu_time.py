"""What training costs, section by section: adds up, and says when a quality was reached."""

from __future__ import annotations

import csv
import json
import time
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from d2rl.algorithm.agent import D2RL
from d2rl.common.timing import TimedSections
from d2rl.runs.tracking import CsvLogger
from d2rl.training.callbacks import GpuTimeProfiler

CPU = torch.device("cpu")
EVERYTHING = ("stages.state=0", "reward.case=designed_gdm")


def build(tiny, *overrides: str) -> D2RL:
    agent = D2RL(tiny(*EVERYTHING, *overrides))
    agent.stages, agent.chi = {"action": True, "reward": True, "state": True}, 0.3
    return agent


def burn(seconds: float) -> None:
    begin = time.process_time()
    while time.process_time() - begin < seconds:
        pass


class Operators(TorchDispatchMode):
    """A clock that no machine and no load can hurry: the number of operators executed so far."""

    now = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.now += 1
        return func(*args, **(kwargs or {}))


class StepClock(Callback):
    """What a clock shows of the training steps, without what callbacks do after them."""

    def __init__(self, clock: Operators):
        self.clock, self.spent = clock, 0.0

    def on_train_batch_start(self, *args):
        self.began = self.clock.now

    def on_train_batch_end(self, *args):
        self.spent += self.clock.now - self.began


def test_sections_add_up_to_the_time_of_the_training_steps(tiny, fit, monkeypatch):
    operators = Operators()
    monkeypatch.setattr("d2rl.common.timing.time", SimpleNamespace(process_time=lambda: operators.now))
    profiler, steps = GpuTimeProfiler(), StepClock(operators)
    agent = build(tiny, "trainer.updates_per_epoch=20")
    with operators:
        fit(agent, steps, profiler, lambda *_: [torch.ones(1) for _ in range(1000)])
    assert {"environment", "aenpnn", "renpnn", "senpnn", "critic", "replay"} == set(profiler.seconds)
    assert all(seconds > 0 for seconds in profiler.seconds.values())
    assert 0.9 * steps.spent < profiler.total <= steps.spent
    assert profiler.total == pytest.approx(sum(profiler.seconds.values()))


def test_the_clock_counts_compute_and_not_waiting():
    sections = TimedSections(CPU)
    with sections("work"):
        burn(0.05)
    with sections("wait"):
        time.sleep(0.05)
    assert sections.read()["wait"] < 0.05 <= sections.read()["work"]


def test_an_interrupted_section_is_no_obstacle():
    sections = TimedSections(CPU)
    with pytest.raises(ZeroDivisionError), sections("work"):
        raise ZeroDivisionError
    with sections("work"):
        burn(0.01)
    assert sections.read()["work"] >= 0.01


def test_the_time_to_a_threshold_is_noted_once_and_without_evaluation(tiny, fit):
    gaps, profiler, totals = iter([0.5, 0.83, 0.6, 0.92]), GpuTimeProfiler(), []

    def evaluate(trainer, agent):
        burn(0.05)
        profiler.evaluated(next(gaps))
        totals.append(profiler.total)

    fit(build(tiny, "trainer.updates_per_epoch=8"), profiler, evaluate)
    reached = profiler.time_to_gap
    assert list(reached) == ["0.70", "0.80", "0.90"]
    assert reached["0.70"] == reached["0.80"] == totals[1]
    assert reached["0.90"] == totals[3]
    assert totals == sorted(totals)


def test_what_is_not_reached_is_null(tiny, fit, tmp_path):
    profiler = GpuTimeProfiler(tmp_path / "timing.json")
    fit(build(tiny), profiler, lambda *_: profiler.evaluated(0.75))
    reached = json.loads((tmp_path / "timing.json").read_text())["time_to_gap"]
    assert reached["0.70"] > 0
    assert reached["0.80"] is reached["0.90"] is None


def test_timing_json_holds_the_report(tiny, fit, tmp_path):
    profiler = GpuTimeProfiler(tmp_path / "timing.json")
    fit(build(tiny), profiler, epochs=2)
    report = json.loads((tmp_path / "timing.json").read_text())
    assert report == profiler.report()
    assert report["updates"] == 8
    assert "CPU" in report["device"]
    assert report["seconds_per_update"] == pytest.approx(sum(report["seconds"].values()) / 8)
    assert sum(report["seconds_per_epoch"]) == pytest.approx(report["total_seconds"])
    assert len(report["seconds_per_epoch"]) == 2


def test_seconds_are_logged_at_every_step_and_epoch(tiny, fit, tmp_path):
    logger, profiler = CsvLogger(tmp_path / "metrics.csv"), GpuTimeProfiler()
    fit(build(tiny), profiler, epochs=2, logger=logger)
    with open(tmp_path / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    totals = [float(row["time/total"]) for row in rows]
    assert totals == sorted(totals)
    assert totals[-1] == profiler.total
    assert [float(rows[n]["time/epoch"]) for n in (1, 3)] == pytest.approx(profiler.epochs)
    assert not rows[0]["time/epoch"]
    parts = [
        value for key, value in rows[-1].items() if key.startswith("time/") and key not in ("time/total", "time/epoch")
    ]
    assert sum(map(float, parts)) == pytest.approx(totals[-1])


def test_an_interrupted_run_keeps_its_times(tiny, fit, tmp_path):
    def stop(trainer, agent):
        if agent.updates == 4:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fit(build(tiny, "trainer.updates_per_epoch=8"), GpuTimeProfiler(tmp_path / "timing.json"), stop)
    report = json.loads((tmp_path / "timing.json").read_text())
    assert report["updates"] == 4
    assert report["total_seconds"] > 0


def test_a_resumed_run_goes_on_counting(tiny, fit):
    first = GpuTimeProfiler()
    fit(build(tiny), first)
    first.evaluated(0.85)
    second = GpuTimeProfiler()
    second.load_state_dict(first.state_dict())
    assert second.report() | {"device": first.device} == first.report()
    agent = build(tiny)
    agent.updates = first.updates
    fit(agent, second)
    second.evaluated(0.92)
    assert all(second.seconds[name] > first.seconds[name] for name in first.seconds)
    assert second.time_to_gap["0.80"] == first.time_to_gap["0.80"] < second.time_to_gap["0.90"]
    assert second.epochs[0] == first.epochs[0]
    assert sum(second.epochs) == pytest.approx(second.total)
    assert second.updates == 8

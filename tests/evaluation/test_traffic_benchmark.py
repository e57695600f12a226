"""benchmarks/traffic.py: the same world for every policy, a plan that knows it, intervals, tables and figures."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from d2rl.common.errors import ConfigError
from d2rl.evaluation.episodes import EpisodeEvaluation
from d2rl.problems import load_config, make_problems

SMALL = (
    *("scenario.downlink_users=2", "scenario.uplink_users=2", "scenario.episode_length=4"),
    *("scenario.transmit_antennas=4", "scenario.receive_antennas=4"),
)


@pytest.fixture(scope="module")
def traffic() -> Any:
    """The benchmark, which is no part of the package."""
    path = Path(__file__).resolve().parents[2] / "benchmarks/traffic.py"
    spec = importlib.util.spec_from_file_location("traffic_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["traffic_benchmark"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def problem() -> Any:
    """A small cell with queues."""
    return make_problems(load_config(["conf=traffic", *SMALL, "traffic.load=2"]))[0]


def test_a_rollout_meets_the_world_of_an_evaluation(traffic, problem):
    policy = problem.references()["round_robin"]
    outcome = traffic.rollout(problem, policy, cells=3, seed=5)
    evaluation = EpisodeEvaluation(problem, 3, 5)
    metrics = evaluation.score("round_robin", policy)
    assert problem.summary(outcome.total).items() <= metrics.items()
    assert outcome.course.sum() == pytest.approx(float(outcome.total.backlog.sum() / 3), rel=1e-4)


def test_a_plan_is_told_what_then_happens(traffic, problem, monkeypatch):
    told, seen = [], []

    def foresight(channels, queues, arrivals, plan):
        told.append((channels, arrivals))
        return [traffic.torch.zeros(0)] * len(channels)

    def policy(state):
        seen.append(state)
        planned(state)
        return problem.references()["round_robin"](state)

    monkeypatch.setattr(traffic, "foresight", foresight)
    planned = traffic.plan_ahead(problem, 3, 5)
    traffic.rollout(problem, policy, 3, 5)
    for slot, (channels, arrivals) in enumerate(told):
        assert len(channels) == 4 - slot
        for later, known in enumerate(channels):
            torch.testing.assert_close(known.downlink, seen[slot + later].known.downlink)
        for later, arrived in enumerate(arrivals):
            torch.testing.assert_close(arrived, seen[slot + later + 1].arrived)


@pytest.mark.slow
def test_tables_and_figures_hold_every_policy_and_load(traffic, tmp_path, monkeypatch):
    monkeypatch.setattr(traffic, "RESAMPLES", 20)
    monkeypatch.setattr(traffic, "DRIFT", "maxweight")  # which takes less time
    asked = [f"out={tmp_path}", "loads=2,1", "cells=3", "policies=maxweight,round_robin", *SMALL]
    traffic.traffic_command(asked)
    with open(tmp_path / "traffic.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["load"], row["policy"]) for row in rows] == [
        *(("1", "maxweight"), ("1", "round_robin")),
        *(("2", "maxweight"), ("2", "round_robin")),
    ]
    for row in rows:
        assert float(row["mean_delay_low"]) <= float(row["mean_delay"]) <= float(row["mean_delay_high"])
    assert {float(row["of_drift"]) for row in rows if row["policy"] == "maxweight"} == {1}
    assert "| round robin |" in (tmp_path / "traffic.md").read_text()
    assert all((tmp_path / f"{name}.png").stat().st_size > 5000 for name in ("delay", "waiting", "queues"))

    monkeypatch.setattr(traffic, "rollout", None)  # what is known is not computed again
    traffic.traffic_command(asked)


def test_bisection_finds_the_load_of_a_link_that_nothing_disturbs(traffic, problem, monkeypatch):
    """A cell that sends everything is stable at any load, one that is silent at none."""
    everything = traffic.stable_loads(problem, lambda state: problem.references()["round_robin"](state), 3, 5)
    silent = traffic.stable_loads(
        problem,
        lambda state: tuple(torch.zeros_like(part) for part in problem.references()["round_robin"](state)),
        3,
        5,
    )
    assert (silent == traffic.LOADS[0]).all()
    assert (everything > silent).any()


def test_a_trace_grows_with_the_load_that_is_tried(traffic, tmp_path, monkeypatch):
    path, seen = tmp_path / "trace.csv", []
    path.write_text("slot,link,bits\n" + "".join(f"{slot},{link},20000\n" for slot in range(4) for link in range(4)))
    config = load_config(["conf=traffic", *SMALL, "traffic.arrivals=trace", f"traffic.trace={path}"])
    problem = make_problems(config)[0]

    def silent(state):
        seen.append(state.arrived.sum())
        return tuple(torch.zeros_like(part) for part in problem.references()["round_robin"](state))

    monkeypatch.setattr(traffic, "BISECTIONS", 2)
    traffic.stable_loads(problem, silent, 3, 5)
    tried = [sum(traffic.LOADS) / 2, (3 * traffic.LOADS[0] + traffic.LOADS[1]) / 4]  # queues grow at any load
    assert float(seen[3] / seen[7]) == pytest.approx(tried[0] / tried[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["traffic.arrivals=full_buffer"], "full buffers have none"),
        (["traffic.arrivals=on_off+full_buffer"], "full buffers have none"),
        (["traffic.uplink_deadline=5"], r"with traffic\.uplink_deadline=5 bits are dropped"),
        (["traffic.downlink_buffer=10"], r"with traffic\.downlink_buffer=10.* bits are dropped"),
        (["policies=plan"], "policies=plan is told what arrives at one"),
    ],
)
def test_a_stable_load_where_none_can_be_found_is_refused(traffic, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        traffic.traffic_command([f"out={tmp_path / 'none'}", "stable=true", *arguments, *SMALL])
    assert not (tmp_path / "none").exists()


def test_a_stable_load_at_an_end_of_what_is_tried_is_told(traffic, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(traffic, "stable_loads", lambda *_: torch.tensor([traffic.LOADS[0], 1.0]))
    traffic.traffic_command([f"out={tmp_path}", "stable=true", "policies=drift", *SMALL])
    assert "1 of 2 cells are at an end of what is tried, 0.1 to 3.3" in " ".join(capsys.readouterr().out.split())
    assert "less drift descent |" in (tmp_path / "stable.md").read_text()


@pytest.mark.parametrize(
    ("argument", "message"), [("loads=high", "loads=high"), ("policies=fifo", "fifo is no scheduler")]
)
def test_mistakes_are_one_message(traffic, tmp_path, argument, message):
    with pytest.raises(ConfigError, match=message):
        traffic.traffic_command([f"out={tmp_path / 'none'}", argument, *SMALL])
    assert not (tmp_path / "none").exists()

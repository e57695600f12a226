"""Plausibility of synthetic states: reported when due, and without any effect on learning."""

from __future__ import annotations

import csv

import lightning as L
import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.common.notices import notice_once
from d2rl.runs.tracking import CsvLogger
from d2rl.training.callbacks import StatePlausibility


def build(tiny, *overrides: str) -> D2RL:
    L.seed_everything(0, verbose=False)
    return D2RL(tiny("trainer.updates_per_epoch=2", *overrides))


def test_it_reports_every_few_epochs(tiny, fit, tmp_path):
    logger = CsvLogger(tmp_path / "metrics.csv")
    fit(build(tiny, "stages.state=0"), StatePlausibility(every=2), epochs=4, logger=logger)
    with open(tmp_path / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["environment_steps"]) for row in rows] == [32, 64]
    for row in rows:
        assert 0 <= float(row["senpnn/plausible_share"]) <= 1
        assert {"senpnn/downlink/covariance", "senpnn/uplink/gain", "senpnn/rate/rzf"} < set(row)


def test_it_is_silent_without_a_state_stage(tiny, fit, tmp_path):
    logger = CsvLogger(tmp_path / "metrics.csv")
    fit(build(tiny, "stages.state=null"), StatePlausibility(every=1), logger=logger)
    assert not logger.rows


def test_one_state_is_too_few_to_judge_by(tiny, fit, tmp_path, caplog):
    notice_once.cache_clear()
    logger = CsvLogger(tmp_path / "metrics.csv")
    fit(build(tiny, "stages.state=5", "scenario.stored_states=1"), StatePlausibility(every=1), epochs=2, logger=logger)
    assert not logger.rows
    assert [record.getMessage() for record in caplog.records if "SENPNN" in record.getMessage()] == [
        "one state to train on is too few to judge SENPNN by: plausibility metrics are left out."
    ]


@pytest.mark.slow
def test_it_has_no_effect_on_learning(tiny, fit):
    agents = [build(tiny, "stages.state=0") for _ in range(2)]
    for agent, callbacks in zip(agents, ([], [StatePlausibility(every=1)]), strict=True):
        agent.stages["state"], agent.chi = True, 0.5
        fit(agent, *callbacks, epochs=2)
    first, second = agents
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(first.generator.get_state(), second.generator.get_state())

"""The evaluation during training: right, told to those who wait for it, and without any effect on learning."""

from __future__ import annotations

import csv

import lightning as L
import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.decisions import DecisionRule
from d2rl.config.defaults import StagesConfig
from d2rl.evaluation.evaluate import Evaluation, policy_of
from d2rl.problems import make_problems
from d2rl.runs.tracking import CsvLogger
from d2rl.training.callbacks import GpuTimeProfiler, PolicyEvaluation, StagedIntegration, TrainingProgress


def build(tiny, *overrides: str) -> D2RL:
    L.seed_everything(0, verbose=False)
    agent = D2RL(tiny("ddpg.warmup_updates=0", *overrides))
    agent.stages["action"] = True
    return agent


@pytest.fixture(scope="module")
def evaluation(tiny) -> Evaluation:
    return Evaluation(make_problems(tiny())[0], 8, 0)


@pytest.mark.parametrize("rule", [DecisionRule(), DecisionRule(best_of=3), DecisionRule(refine=2)], ids=str)
def test_it_scores_the_policy_as_it_is_now(tiny, fit, evaluation, rule):
    agent, callback = build(tiny), PolicyEvaluation(evaluation, rule)
    trainer = fit(agent, callback)
    now = evaluation.judge(policy_of(agent, rule))
    assert callback.latest == now
    assert trainer.callback_metrics["objective"].item() == pytest.approx(now["weighted_sum_rate"])


def test_it_has_no_effect_on_learning(tiny, fit, evaluation):
    first, second = build(tiny), build(tiny)
    fit(first, epochs=2)
    fit(second, PolicyEvaluation(evaluation, DecisionRule(best_of=2)), epochs=2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(first.generator.get_state(), second.generator.get_state())


def test_it_evaluates_every_few_steps_and_logs_at_each(tiny, fit, evaluation, tmp_path):
    logger = CsvLogger(tmp_path / "metrics.csv")
    fit(build(tiny, "trainer.updates_per_epoch=6"), PolicyEvaluation(evaluation, every=2), epochs=2, logger=logger)
    with open(tmp_path / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["environment_steps"]) for row in rows] == [16, 32, 48, 64, 80, 96]
    assert [bool(row["eval/sum_rate"]) for row in rows] == [False, True] * 3
    assert all(row["losses/critic"] and row["charts/exploration_noise"] for row in rows)
    assert [float(row["charts/updates"]) for row in rows] == [2, 4, 6, 8, 10, 12]


def test_the_callbacks_that_wait_for_it_are_told(tiny, fit, evaluation):
    profiler, stages = GpuTimeProfiler(), StagedIntegration(StagesConfig(action=0, reward=9, state=None, plateau=9))
    agent, callback = build(tiny), PolicyEvaluation(evaluation)
    fit(agent, stages, profiler, callback)
    assert stages.best >= callback.latest["weighted_sum_rate"] > 0
    assert profiler.total > 0
    reached = [name for name, seconds in profiler.time_to_gap.items() if seconds is not None]
    assert reached == [name for name in profiler.time_to_gap if callback.latest["gap_closed"] >= float(name)]


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_mostly_saturated_actions_are_told_at_the_end(tiny, fit, evaluation, caplog, share):
    def saturate(trainer, agent):
        agent.means.collect()
        agent.means.add("charts/saturated_actions", torch.tensor(share if agent.updates == 8 else 1 - share))

    fit(build(tiny), saturate, PolicyEvaluation(evaluation), epochs=2)
    said = [one.getMessage() for one in caplog.records if "saturated actions: 60% of" in one.getMessage()]
    assert len(said) == (share > 0.5)
    assert all("more than ddpg.saturation_penalty=0.01" in one for one in said)


def test_the_progress_bar_shows_rate_share_and_device(tiny, fit, evaluation, capsys):
    progress = TrainingProgress()
    fit(build(tiny), PolicyEvaluation(evaluation), progress, epochs=2)
    task = progress.bar.tasks[0]
    assert (task.completed, task.total) == (8, 8)
    assert task.description == "updates on cpu"
    assert "bit/s/Hz" in task.fields["quality"]
    assert "% of wmmse" in task.fields["quality"]
    assert progress.bar.live.is_started is False


def test_the_progress_bar_works_alone(tiny, fit):
    progress = TrainingProgress()
    fit(build(tiny), progress)
    assert progress.bar.tasks[0].completed == 4

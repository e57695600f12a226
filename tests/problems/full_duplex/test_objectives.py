"""Other objectives in a cell: what a policy reaches in rounds, what is reported, what is refused."""

from __future__ import annotations

from dataclasses import replace

import gymnasium
import pytest
import torch

import d2rl
import d2rl.envs
from d2rl.algorithm.decisions import DecisionRule, decide
from d2rl.common.errors import ConfigError
from d2rl.evaluation import evaluate as evaluation
from d2rl.evaluation.evaluate import Evaluation, score_agent
from d2rl.problems import check_config, check_files, load_config
from d2rl.problems.full_duplex import references
from d2rl.report.page import report_page


def decided(*arguments: str, rule: DecisionRule = DecisionRule(best_of=4)):  # noqa: B008
    """Rates [B, K] of the shipped policy, and its problem."""
    policy = d2rl.load("pretrained", *arguments)
    state = policy.problem.frozen(24, 77, "cpu")
    decision = decide(policy, state, rule, torch.Generator().manual_seed(0))
    assert policy.problem.feasible(decision).all()
    return policy.problem.measure(state, decision).squeeze(1)


def test_priorities_give_the_worst_link_many_times_more():
    plain, fair = decided(), decided("scenario.objective=max_min")
    assert fair.amin(-1).mean() > 10 * plain.amin(-1).mean()
    assert fair.amin(-1).mean() > 3


def test_refining_goes_on_by_the_objective():
    arguments = ["scenario.objective=max_min"]
    refined = decided(*arguments, rule=DecisionRule(best_of=4, refine=5))
    assert (refined.amin(-1) >= decided(*arguments).amin(-1) - 1e-3).all()


def test_a_minimum_is_kept_in_nearly_every_drop():
    plain, kept = decided(), decided("scenario.objective=minimum", "scenario.minimum_rate=0.5")
    assert (plain >= 0.5).all(-1).float().mean() < 0.3
    assert (kept >= 0.5).all(-1).float().mean() > 0.7
    assert kept.sum(-1).mean() > 0.8 * plain.sum(-1).mean()


def test_lower_powers_give_far_more_bits_for_a_joule_at_once_and_near_the_reference():
    asked = d2rl.load("pretrained", "scenario.objective=energy")
    state = asked.problem.frozen(24, 77, "cpu")

    def efficiency(decision) -> float:
        assert asked.problem.feasible(decision).all()
        rates = asked.problem.measure(state, decision).squeeze(1)
        return asked.problem.metrics(rates, state.weights, decision)["energy_efficiency"]

    rule, reference = DecisionRule(best_of=4), asked.problem.references()["wmmse"](state)
    plain, frugal, refined = (
        efficiency(decide(policy, state, how, torch.Generator().manual_seed(0)))
        for policy, how in ((d2rl.load("pretrained"), rule), (asked, rule), (asked, replace(rule, refine=5)))
    )
    assert frugal > 1.2 * plain
    assert refined > frugal > 0.9 * efficiency(reference)
    assert max(refined, efficiency(reference)) < float(asked.problem.bound(state).mean())


@pytest.mark.parametrize(
    ("arguments", "metric", "words"),
    [
        (
            ["scenario.objective=minimum", "scenario.minimum_rate=0.5"],
            "weighted_sum_rate",
            "The minimum of 0.5 bit/s/Hz for every link is kept in",
        ),
        (["scenario.objective=max_min"], "min_rate", "The smallest rate of a drop is"),
        (["scenario.objective=energy"], "energy_efficiency", "The cell carries"),
    ],
)
@pytest.mark.slow
def test_the_report_says_how_far_it_came(tiny, monkeypatch, arguments, metric, words):
    from d2rl.algorithm.agent import D2RL

    monkeypatch.setattr(evaluation, "LATENCY_SECONDS", 0.0)
    monkeypatch.setattr(references, "ITERATIONS", 20)
    config = tiny("scenario.priority_user=0.3", *arguments)
    agent = D2RL(config)
    agent.problem.objective = replace(agent.problem.objective, rounds=2)
    result = Evaluation(agent.problem, 8, 0)
    report = score_agent(agent, result, DecisionRule(best_of=2), references=False)
    assert report["metric"] == metric
    leading = metric if metric == "energy_efficiency" else "min_rate"
    best = max(report["policies"].values(), key=lambda found: found[leading])
    assert report["policies"]["wmmse"][leading] == best[leading] > 0.5
    if metric == leading:
        assert best[leading] <= report["interference_free_bound"]
    else:
        assert report["policies"]["wmmse"]["satisfied"] == 1.0
    assert words in report_page("x", config, result, report)


CELL = ["conf=full_duplex", "scenario.path_loss=nlos", "scenario.bs_power=30"]


def test_a_minimum_out_of_reach_is_refused_with_what_is_possible():
    config = load_config([*CELL, "scenario.objective=minimum", "scenario.minimum_rate=30"])
    with pytest.raises(ConfigError, match=r"minimum_rate=30 .* of 64 of 64 drops.*the best \d+\.\d\d\. Lower it"):
        check_files(config)


def test_one_that_some_drops_cannot_have_is_told(caplog):
    caplog.set_level("WARNING")
    check_files(load_config([*CELL, "scenario.objective=minimum", "scenario.minimum_rate=5"]))
    assert "cannot be given to all links of" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["conf=full_duplex", "scenario.objective=minimum"], "minimum_rate above 0"),
        (["conf=full_duplex", "scenario.minimum_rate=1"], "needs objective=minimum"),
        (["conf=traffic", "scenario.objective=max_min", "scenario.priority_user=0.3"], "is of the rates of one slot"),
        (["conf=ddpg", "scenario.objective=max_min"], "set scenario.priority_user"),
    ],
)
def test_objectives_that_cannot_be_are_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        check_config(load_config(arguments))


def test_the_environment_rewards_weighted_sums_alone():
    with pytest.raises(ConfigError, match="rewards here are weighted sums"):
        gymnasium.make("d2rl/FullDuplex-v0", objective="max_min", priority_user=0.3)

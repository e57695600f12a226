"""Decisions and what they are worth: frozen drops, references in their order, rules that can only gain."""

from __future__ import annotations

import copy
import io
import json
import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from rich.console import Console
from torch import Tensor

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.decisions import DecisionRule, decide, diverse_weights
from d2rl.common.errors import InputError
from d2rl.common.files import write_json
from d2rl.common.notices import notice_once
from d2rl.config.defaults import FullDuplexConfig
from d2rl.envs import FullDuplexEnv
from d2rl.evaluation import evaluate as evaluation
from d2rl.evaluation.evaluate import Evaluation, policy_of
from d2rl.evaluation.scheduling import proportional_fair
from d2rl.problems import make_problems
from d2rl.problems.base import Layout
from d2rl.problems.full_duplex.problem import FullDuplexProblem
from d2rl.problems.full_duplex.references import reference_policies
from d2rl.problems.full_duplex.simulator import CellState, decided_rates, evaluation_states
from d2rl.report.terminal import results_table
from d2rl.training.callbacks.gpu_time import device_name
from d2rl.wireless import ChannelState, link_rates
from d2rl.wireless.bank_file import save_bank
from d2rl.wireless.channel_bank import ChannelBank, estimated_gains


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(tiny, *overrides: str, action: bool = True) -> D2RL:
    """An untrained agent whose output layers are of ordinary size, so that its candidates differ."""
    L.seed_everything(0, verbose=False)
    agent = D2RL(tiny(*overrides))
    agent.stages["action"] = action
    for layer in (agent.actor.output.linear, agent.aenpnn.denoiser.output):
        layer.reset_parameters()
    return agent


def states(agent: D2RL, count: int = 32, weighted: bool = False) -> CellState:
    state = evaluation_states(agent.config.scenario, count, 0)
    if weighted:
        state = replace(state, weights=torch.exp(torch.randn(state.weights.shape, generator=seeded(5))))
    return state


def worth(state: CellState, decision: tuple[Tensor, Tensor]) -> Tensor:
    """Weighted sum rate of every cell on the known channels."""
    return (link_rates(state.estimate, *decision) * state.weights).sum(-1)


# ------------------------------------------------------------------ what was asked for


NARROW = ("scenario.priority_direction=0.3", "scenario.priority_user=0.4")  # 3 spreads: 0.223 to 4.48


@pytest.mark.parametrize(
    ("overrides", "weights", "told"),
    [
        ((), [1, 1, 1, 1, 1], None),
        ((), [1, 1, 1, 1, 1.1], "1 to 1, never 0"),
        (NARROW, [0.23, 1, 1, 1, 4.4], None),
        (NARROW, [0.22, 1, 1, 1, 1], "0.22 to 4.5, never 0"),
        (NARROW, [1, 1, 1, 1, 4.6], "0.22 to 4.5, never 0"),
        (NARROW, [1, 1, 1, 0, 0], "0.22 to 4.5, never 0"),
        ((*NARROW, "scenario.priority_zero=0.1"), [1, 1, 1, 0, 0], None),
        ((*NARROW, "scenario.priority_zero=0.1"), [0.1, 1, 1, 0, 0], "0.22 to 4.5, or 0"),
    ],
    ids=str,
)
def test_link_weights_that_training_did_not_show_are_told_once(tiny, caplog, overrides, weights, told):
    notice_once.cache_clear()
    agent = build(tiny, *overrides)
    state = replace(states(agent, 2), weights=torch.tensor(weights, dtype=torch.float32).expand(2, 5))
    for _ in range(2):
        decide(agent, state, DecisionRule(), seeded())
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (told is not None)
    assert all(f"the policy was not trained with ({told})" in one for one in said)


def test_the_weights_of_a_channel_bank_count_as_trained(tmp_path, tiny, caplog):
    notice_once.cache_clear()
    cell, path = states(build(tiny), 10), tmp_path / "bank.pt"
    weights = torch.tensor([2.0, 2.0, 2.0, 0.0, 5.0]).expand(10, 5)
    save_bank(ChannelBank(cell.channels, cell.gains, weights, noise_normalised=True), path)
    agent = build(tiny, f"scenario.channel_bank={path}")
    decide(agent, states(agent, 2), DecisionRule(), seeded())
    assert not caplog.records
    decide(agent, replace(states(agent, 2), weights=torch.full((2, 5), 1.0)), DecisionRule(), seeded())
    assert "not trained with (2 to 5, or 0)" in caplog.text


# ------------------------------------------------------------------ the frozen set


@pytest.fixture(scope="module")
def default() -> Evaluation:
    """64 drops of the default cell."""
    evaluation = Evaluation(FullDuplexProblem(FullDuplexConfig()), 64, 0)
    evaluation.score_references()
    return evaluation


@pytest.fixture(scope="module")
def small(tiny) -> Evaluation:
    evaluation = Evaluation(make_problems(tiny())[0], 16, 0)
    evaluation.score_references()
    return evaluation


def test_a_training_waits_for_the_ends_of_the_gap_alone(tiny):
    evaluation = Evaluation(make_problems(tiny())[0], 4, 0)
    assert set(evaluation.policies) == {"random", "wmmse"}
    assert set(evaluation.report()["policies"]) == set(evaluation.references)


def test_what_would_take_too_long_for_many_drops_is_left_out_and_said(tiny, monkeypatch, caplog):
    monkeypatch.setattr("d2rl.problems.full_duplex.references.MOST", 3)
    with caplog.at_level("WARNING"):
        evaluation = Evaluation(make_problems(tiny())[0], 4, 0)
    assert "best_known" not in evaluation.report()["policies"]
    assert "best_known is left out: it is computed for 3 drops at most, not 4" in caplog.text


def test_a_reference_that_is_kept_is_timed_anew(small, monkeypatch):
    monkeypatch.setattr(evaluation, "LATENCY_SECONDS", 0.0)
    asked = []
    search = small.references["wmmse"]
    monkeypatch.setattr(search, "fresh", lambda state: asked.append(state.batch))
    small.latency(search)
    assert asked == [1] * 5


def test_the_drops_are_the_same_whoever_asks(tiny):
    scenario = tiny().scenario
    first = evaluation_states(scenario, 8, 3)
    torch.rand(5)
    second = evaluation_states(replace(scenario, priority_user=0.5, stored_states=4), 8, 3)
    other = evaluation_states(scenario, 8, 4)
    for name, tensor in first.channels.tensors().items():
        assert torch.equal(tensor, getattr(second.channels, name))
        assert not torch.equal(tensor, getattr(other.channels, name))
    assert bool((second.weights == 1).all())


def test_every_policy_meets_the_same_drops(small):
    met = []

    def policy(state: CellState) -> tuple[Tensor, Tensor]:
        met.append(state)
        return reference_policies()["mrt"](state)

    for name in ("one", "two"):
        small.score(name, policy)
    assert small.policies["one"] == small.policies["two"] == small.policies["mrt"]
    assert met[0] is met[1] is small.state
    del small.policies["one"], small.policies["two"]


def test_references_stand_in_their_order(default):
    rates = {name: policy["sum_rate"] for name, policy in default.policies.items()}
    assert rates["random"] < rates["mrt"] < rates["rzf"] < rates["wmmse"] < rates["best_known"] < default.bound()
    assert rates["zf"] == pytest.approx(rates["rzf"], rel=0.01)
    assert rates["rzf"] == pytest.approx(67, abs=3)
    assert rates["wmmse"] == pytest.approx(94, abs=3)


def test_wmmse_and_random_are_the_ends_of_the_gap(default):
    ends = {
        name: (default.policies[name]["wmmse_ratio"], default.policies[name]["gap_closed"])
        for name in ("wmmse", "random")
    }
    assert ends["wmmse"] == pytest.approx((1, 1))
    assert ends["random"][1] == pytest.approx(0)
    for policy in default.policies.values():
        rate, random, best = (p["sum_rate"] for p in (policy, default.policies["random"], default.policies["wmmse"]))
        assert policy["gap_closed"] == pytest.approx((rate - random) / (best - random), abs=1e-5)


def test_policies_know_the_estimate_and_are_judged_on_the_truth(tiny):
    blurred = Evaluation(make_problems(tiny("scenario.csi_error=0.3"))[0], 16, 0)
    blurred.score_references()
    for name, policy in blurred.references.items():
        rates = link_rates(blurred.state.channels, *policy(replace(blurred.state, channels=None)))
        assert blurred.policies[name]["sum_rate"] == pytest.approx(rates.sum(-1).mean().item(), rel=1e-5)
    knowing = replace(blurred.state, estimate=blurred.state.channels)
    best = link_rates(blurred.state.channels, *blurred.references["wmmse"](knowing)).sum(-1).mean().item()
    assert blurred.policies["wmmse"]["sum_rate"] < 0.9 * best


def test_priorities_move_the_references(tiny):
    (problem,), split = make_problems(tiny()), []
    for weights in ([1.0] * 5, [1, 1, 1, 0.05, 0.05], [0.05, 0.05, 0.05, 1, 1]):
        evaluation = Evaluation(problem, 16, 0, weights=torch.tensor(weights))
        wmmse = evaluation.policies["wmmse"]
        split.append((wmmse["downlink_rate"], wmmse["uplink_rate"]))
        assert wmmse["wmmse_ratio"] == pytest.approx(1)
        assert wmmse["weighted_sum_rate"] < evaluation.bound()
    assert split[2][0] < split[0][0] < split[1][0]
    assert split[1][1] < split[0][1] < split[2][1]


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_latency_is_the_time_of_one_decision_for_one_cell(small, monkeypatch, seconds):
    """However few repeats there is time for."""
    assert small.score("mrt", small.references["mrt"], latency=True)["latency_ms"] > 0
    monkeypatch.setattr(evaluation, "LATENCY_SECONDS", seconds)
    monkeypatch.setattr(evaluation, "time", SimpleNamespace(perf_counter=lambda: clock))
    seen, clock = [], 0.0

    def slow(state: CellState) -> tuple[Tensor, Tensor]:
        nonlocal clock
        seen.append(state.weights.shape[0])
        clock += 0.05 if len(seen) <= 3 else 0.004
        return reference_policies()["mrt"](state)

    assert small.latency(slow) == pytest.approx(4)  # in ms; the slow first ones are left out
    assert set(seen) == {1}


def test_the_report_holds_what_eval_json_needs(small):
    report = small.report()
    assert report["drops"] == 16
    assert report["scenario"]["downlink_users"] == 3
    assert set(report["policies"]) == {"best_known", "wmmse", "wmmse_200", "rzf", "zf", "mrt", "random"}
    assert report["interference_free_bound"] > report["policies"]["wmmse"]["sum_rate"]


def test_the_table_shows_the_best_policy_first(small):
    timing = {
        "total_seconds": 12.0,
        "device": "a CPU",
        "seconds_per_update": 0.02,
        "time_to_gap": {"0.80": 3.0, "0.90": None},
    }
    console = Console(width=120, file=io.StringIO())
    console.print(results_table(small.report(), timing))
    text = console.file.getvalue()
    ranked = sorted(small.policies, key=lambda name: -small.policies[name]["weighted_sum_rate"])
    places = [text.index(f"│ {name} ") for name in ranked]
    assert places == sorted(places)
    assert "gap closed 0.80: 3.0 s, 0.90: not reached" in " ".join(text.split())


def shown_by(report: dict, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(results_table(report))
    return console.file.getvalue()


def test_the_table_fits_a_terminal_of_80_columns_and_wraps_no_name(small):
    policies = {**small.policies, "d2rl best of 16": {**small.policies["rzf"], "latency_ms": 1234.56}}
    text = shown_by({**small.report(), "policies": policies})
    assert " d2rl best of 16 " in text
    assert " 1234.56 " in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "16 drops" in text


def test_one_drop_is_no_plural(small, monkeypatch):
    assert "1 drop, in bit/s/Hz" in shown_by({**small.report(), "drops": 1})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert device_name(torch.device("cpu")).endswith("CPU, 1 thread")


def test_the_table_tells_of_a_schedule(small):
    keys = [f"{name}_{of}" for name in ("equal", "proportional_fair") for of in ("sum_rate", "geometric_mean", "p5")]
    found = {"slots": 50, **{key: float(n) for n, key in enumerate(keys)}}
    text = " ".join(shown_by({**small.report(), "proportional_fair": found}).split())
    assert "proportional fair over 50 slots (equal weights): geometric mean of the links 4.00 (1.00), 5 %" in text
    assert "link 5.00 (2.00), sum rate 3.00 (0.00)" in text


@pytest.fixture
def worthless(tiny, tmp_path) -> Evaluation:
    """One link alone counts, and it hears nothing: every policy reaches 0."""
    env = FullDuplexEnv(tiny().scenario, 10, 0)
    channels = env.state.channels
    silent = torch.cat([torch.zeros_like(channels.downlink[:, :1]), channels.downlink[:, 1:]], dim=1)
    bank = ChannelBank(replace(channels, downlink=silent), env.state.gains, env.state.weights)
    save_bank(bank, tmp_path / "bank.npz")
    scenario = replace(tiny().scenario, channel_bank=str(tmp_path / "bank.npz"))
    return Evaluation(FullDuplexProblem(scenario), 8, 0, weights=torch.tensor([1.0, 0, 0, 0, 0]))


@pytest.mark.parametrize("level", [-59, 149])
def test_a_bank_at_either_end_of_what_is_allowed_is_trained_and_evaluated_on(tiny, fit, tmp_path, level):
    env = FullDuplexEnv(tiny().scenario, 20, 0)

    def scaled(channels: Tensor, gain: Tensor) -> Tensor:
        return channels.to(torch.complex128) * (10 ** (level / 10) / gain.double().median()).sqrt()

    pairs = zip(env.state.channels.tensors().items(), env.state.gains.tensors().values(), strict=True)
    channels = ChannelState(**{name: scaled(h, gain).to(torch.complex64) for (name, h), gain in pairs})
    save_bank(ChannelBank(channels, estimated_gains(channels), env.state.weights), tmp_path / "bank.npz")
    agent = D2RL(tiny(f"scenario.channel_bank={tmp_path / 'bank.npz'}", "stages.state=0"))
    fit(agent)
    assert agent.skipped_steps() == agent.refused_transitions() == 0
    found = Evaluation(FullDuplexProblem(agent.config.scenario), 4, 0)
    found.score("d2rl", policy_of(agent, DecisionRule(best_of=4, refine=2)))
    rates = {name: metrics["sum_rate"] for name, metrics in found.policies.items()}
    assert all(0 < rate < found.bound() for rate in rates.values())
    assert rates["wmmse"] > rates["random"]


def test_ratios_over_references_that_reach_nothing_are_unknown(worthless, tmp_path):
    for metrics in worthless.policies.values():
        assert math.isnan(metrics["wmmse_ratio"])
        assert math.isnan(metrics["gap_closed"])
    write_json(tmp_path / "eval.json", worthless.report())
    assert json.loads((tmp_path / "eval.json").read_text())["policies"]["rzf"]["gap_closed"] is None
    assert "nan" not in shown_by(worthless.report())


def test_random_decisions_as_good_as_wmmse_leave_no_gap_to_close(small):
    made = replace_references(small, reference=20.0, floor=20.0)
    assert math.isnan(made["gap_closed"])
    assert made["wmmse_ratio"] == pytest.approx(made["weighted_sum_rate"] / 20)


def replace_references(of: Evaluation, **levels: float) -> dict[str, float]:
    """Metrics of RZF beside references at these levels."""
    other = copy.copy(of)
    vars(other).update(levels)
    return other.judge(other.references["rzf"])


# ------------------------------------------------------------------ rules of decision


@pytest.mark.parametrize("weighted", [False, True])
def test_best_of_takes_the_best_candidate_of_the_draw(tiny, weighted):
    agent = build(tiny)
    state = states(agent, weighted=weighted)
    candidates = agent.propose(agent.problem.observe(state), 8, seeded(1))
    rates = (decided_rates(agent.problem.head, state.estimate, candidates) * state.weights.unsqueeze(1)).sum(-1)
    found = worth(state, decide(agent, state, DecisionRule(best_of=8), seeded(1)))
    assert torch.allclose(found, rates.amax(-1), rtol=1e-4)
    assert (rates.amax(-1) - rates[:, 0]).mean() > 0.1


def test_best_of_judges_by_what_is_known(tiny):
    agent = build(tiny, "scenario.csi_error=0.3")
    state = states(agent)
    blind = replace(state, channels=state.channels.map(torch.zeros_like))
    first, second = (decide(agent, one, DecisionRule(best_of=8, refine=1), seeded(1)) for one in (state, blind))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize(
    "rule", [DecisionRule(best_of=6, priority_spread=0.5), DecisionRule(best_of=6, noise=0.3)], ids=str
)
def test_other_candidates_never_do_worse_than_the_plain_decision(tiny, rule):
    """The first candidate is the plain one: made for the weights asked for, without noise."""
    agent = build(tiny, action=False)
    state = states(agent, weighted=True)
    plain = worth(state, decide(agent, state, DecisionRule(), seeded()))
    found = worth(state, decide(agent, state, rule, seeded()))
    assert bool((found >= plain - 1e-4).all())
    assert (found - plain).mean() > 0.05


def test_diverse_weights_keep_the_first_and_spread_the_others():
    weights = torch.exp(torch.randn(500, 5, generator=seeded()))
    many = diverse_weights(weights, Layout((3, 2), (2, 2)), 6, 0.5, seeded(1))
    assert many.shape == (500, 6, 5)
    assert torch.equal(many[:, 0], weights)
    factor = (many / weights.unsqueeze(1)).log()[:, 1:].flatten(0, 1) / 0.5
    covariance = factor.T @ factor / len(factor)
    expected = torch.eye(5)
    expected[:3, :3] += 1  # a factor common to each direction
    expected[3:, 3:] += 1
    assert torch.allclose(covariance, expected, atol=0.15)


def test_refinement_can_only_gain(tiny):
    agent = build(tiny)
    state = states(agent, weighted=True)
    rates = [worth(state, decide(agent, state, DecisionRule(refine=k), seeded(1))) for k in (0, 1, 2, 5, 20)]
    for before, after in pairwise(rates):
        assert bool((after >= before - 1e-3).all())
        assert (after - before).mean() > 0.01


@pytest.mark.parametrize(("spoilt", "words"), [("channels", "NaN or infinite"), ("weights", "not negative")])
def test_what_cannot_be_refined_is_refused(tiny, spoilt, words):
    agent = build(tiny)
    state = states(agent)
    if spoilt == "channels":
        state = replace(state, estimate=state.estimate.map(lambda tensor: tensor * float("nan")))
    else:
        state = replace(state, weights=-state.weights)
    with pytest.raises(InputError, match=words):
        decide(agent, state, DecisionRule(best_of=4, refine=2), seeded())


def test_priorities_move_a_refined_decision(tiny):
    agent = build(tiny)
    downlink = []
    for weight in (0.01, 1.0, 100.0):
        state = states(agent)
        weights = state.weights.clone()
        weights[:, :3] = weight
        state = replace(state, weights=weights)
        decision = decide(agent, state, DecisionRule(refine=50), seeded(1))
        downlink.append(link_rates(state.channels, *decision)[:, :3].sum(-1).mean().item())
    assert downlink[0] < downlink[1] < downlink[2]
    assert downlink[2] - downlink[0] > 0.5


@pytest.mark.parametrize(
    "rule", [DecisionRule(), DecisionRule(best_of=4), DecisionRule(best_of=4, priority_spread=0.3)], ids=str
)
def test_a_policy_gives_the_same_decision_each_time(tiny, rule):
    agent = build(tiny)
    state, policy = states(agent), policy_of(agent, rule)
    first, second = policy(state), policy(state)
    other = policy_of(agent, replace(rule, seed=1))(state)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize(
    "rule", [DecisionRule(), DecisionRule(best_of=4, priority_spread=0.3), DecisionRule(refine=2)], ids=str
)
@pytest.mark.parametrize("head", ["structured", "beamforming"])
def test_decisions_respect_the_power_limits(tiny, rule, head):
    agent = build(tiny, f"scenario.head={head}")
    precoder, power = decide(agent, states(agent, weighted=True), rule, seeded())
    assert precoder.shape == (32, 4, 3)
    assert precoder.abs().square().sum((-2, -1)).max() <= 1 + 1e-4
    assert 0 <= power.min() <= power.max() <= 1


# ------------------------------------------------------------------ proportional fairness


def test_proportional_fair_weights_raise_the_geometric_mean(tiny):
    """Weak links get more, at some cost in the sum."""
    result = proportional_fair(build(tiny), DecisionRule(refine=20), cells=8, slots=15, seed=0)
    assert result["proportional_fair_geometric_mean"] > 1.03 * result["equal_geometric_mean"]
    assert result["proportional_fair_p5"] > 1.3 * result["equal_p5"]
    assert result["proportional_fair_sum_rate"] < result["equal_sum_rate"]


def test_schedules_begin_alike_in_the_same_cells(tiny):
    """In the first slot nothing has been received yet, so both weigh all links the same."""
    agent = build(tiny)
    result = proportional_fair(agent, DecisionRule(), cells=4, slots=1, seed=0)
    for key in ("sum_rate", "geometric_mean", "p5"):
        assert result[f"equal_{key}"] == pytest.approx(result[f"proportional_fair_{key}"], rel=1e-4)
    assert result == proportional_fair(agent, DecisionRule(), cells=4, slots=1, seed=0)
    assert result != proportional_fair(agent, DecisionRule(), cells=4, slots=1, seed=1)

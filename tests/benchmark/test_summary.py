"""Statistics over seeds: interquartile mean, censoring, intervals, ratios."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from d2rl.benchmark.estimates import censored_median, estimate, interquartile_mean, ratio
from d2rl.benchmark.matrix import read_matrix
from d2rl.benchmark.report import write_report
from d2rl.benchmark.results import Result
from d2rl.benchmark.summary import summarize

INF = math.inf


def mean_of_the_middle(values: list[float]) -> float:
    """Every value is four equal pieces; a quarter of all pieces falls away at either end."""
    pieces = [value for value in sorted(values) for _ in range(4)]
    kept = pieces[len(values) : -len(values)]
    return sum(kept) / len(kept)


@pytest.mark.parametrize("count", range(1, 13))
def test_interquartile_mean_is_the_mean_of_the_middle_half(count):
    values = [random.Random(count).gauss(3, 2) for _ in range(count)]
    assert interquartile_mean(values) == pytest.approx(mean_of_the_middle(values))
    assert interquartile_mean([values, values[::-1]]) == pytest.approx([mean_of_the_middle(values)] * 2)


def test_interquartile_mean_of_three_counts_the_outer_ones_a_quarter():
    assert interquartile_mean([4.0, 1.0, 10.0]) == pytest.approx((1 / 4 + 4 + 10 / 4) / 1.5)


@pytest.mark.parametrize(
    ("times", "median"),
    [
        ([5.0, 1.0, 3.0], 3.0),
        ([5.0, INF, 3.0], 5.0),
        ([INF, INF, 3.0], INF),
        ([INF, INF, 3.0, 4.0], 4.0),  # half of them are there at 4
        ([1.0, 9.0, 3.0, 4.0], 3.0),
    ],
)
def test_censored_median_is_the_time_by_which_half_are_there(times, median):
    assert censored_median(times) == median


def test_interval_covers_the_truth_about_as_often_as_it_says():
    generator, inside, repeats = np.random.default_rng(0), 0, 60
    for _ in range(repeats):
        low, high = estimate(generator.normal(5, 1, size=20)).interval
        inside += low <= 5 <= high
    assert 0.85 <= inside / repeats <= 1


def test_interval_is_the_same_each_time_and_shrinks_with_seeds():
    few, many = ([random.Random(n).gauss(0, 1) for n in range(count)] for count in (5, 80))
    assert estimate(few) == estimate(few)
    widths = [high - low for low, high in (estimate(few).interval, estimate(many).interval)]
    assert widths[1] < widths[0] / 2
    assert estimate([3.0]).interval == (None, None)


def test_one_infinite_seed_turns_the_estimate_into_a_median_without_upper_bound():
    found = estimate([4.0, 5.0, 6.0, 7.0, INF])
    assert (found.value, found.statistic, found.interval) == (6.0, "median", (4.0, None))
    assert estimate([4.0, INF, INF]).value is None


def test_ratio_compares_the_same_statistic_of_both():
    assert ratio([1.0, 2.0, 3.0], [10.0, 20.0, 30.0]).value == pytest.approx(0.1)
    found = ratio([1.0, 2.0, 9.0], [10.0, 20.0, INF])
    assert (found.value, found.statistic) == (0.1, "median")
    low, high = ratio([9.0, 10.0, 11.0], [18.0, 20.0, 22.0]).interval
    assert 9 / 22 <= low < 0.5 < high <= 11 / 18
    assert ratio([1.0, 2.0, 3.0], [INF, INF, 30.0]).value is None
    assert ratio([INF, INF, 3.0], [10.0, 20.0, 30.0]).value is None


def result(variant: str, seed: int, rate: float, times: list[float], total: float) -> Result:
    return Result(
        variant=variant,
        scenario="default",
        seed=seed,
        sum_rate=rate,
        wmmse_ratio=rate / 92,
        gap_closed=(rate - 35) / 57,
        best_of_16=rate + 1,
        total_seconds=total,
        seconds_per_update=total / 1000,
        seconds_per_epoch=total / 10,
        epochs=10,
        updates=1000,
        time_to_gap=dict(zip(("0.70", "0.80", "0.90"), times, strict=True)),
        seconds={"critic": total},
        device="a CPU",
        torch="2",
        policies={"d2rl": {"sum_rate": rate}},
        folder=Path(),
    )


@pytest.fixture
def matrix(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text("{baseline: ddpg, ours: full, variants: {ddpg: {conf: ddpg}, full: []}}")
    return read_matrix([f"conf={path}", "seeds=3"])


RESULTS = [
    *(result("ddpg", seed, 80 + seed, [20 + seed, [40, INF, 50][seed], INF], 100 + seed) for seed in range(3)),
    *(result("full", seed, 88 + seed, [2 + seed, 5 + seed, [9, 8, INF][seed]], 110 + seed) for seed in range(3)),
]


def test_summary_has_ratios_of_ours_over_the_baseline(matrix):
    summary = summarize(matrix, RESULTS)
    times = summary["ratios"]["total_time_to_gap"]
    assert times["0.70"] == pytest.approx(3 / 21)
    assert times["0.80"] == pytest.approx(6 / 50)
    assert times["0.90"] is None
    assert summary["ratio_statistic"]["total_time_to_gap"] == {"0.70": "iqm", "0.80": "median", "0.90": "median"}
    assert summary["ratio_below"]["total_time_to_gap"] == {"0.70": None, "0.80": None, "0.90": pytest.approx(9 / 100)}
    assert summary["ratios"]["seconds_per_update"] == pytest.approx(111 / 101)
    assert summary["ratios"]["final_sum_rate"] == pytest.approx(89 / 81)
    low, high = summary["ratio_ci"]["final_sum_rate"]
    assert low < 89 / 81 < high
    assert (summary["device"], summary["seeds"]) == ("a CPU", 3)


def test_summary_tells_how_many_seeds_reached_a_threshold(matrix):
    ddpg = summarize(matrix, RESULTS)["variants"]["ddpg"]
    reached = {key: (time["reached"], time["iqm"], time["median"]) for key, time in ddpg["time_to_gap"].items()}
    assert reached == {"0.70": (3, 21, 21), "0.80": (2, None, 50), "0.90": (0, None, None)}
    assert ddpg["final"]["iqm"] == pytest.approx(81)
    assert [seed["sum_rate"] for seed in ddpg["seeds"]] == [80, 81, 82]


def test_the_outage_of_policies_and_references_is_told(matrix, tmp_path):
    policies = {
        "d2rl": {"sum_rate": 90, "outage_sum_rate": 71},
        "d2rl best of 16": {"sum_rate": 92, "outage_sum_rate": 72},
        "wmmse": {"sum_rate": 91, "wmmse_ratio": 1, "outage_sum_rate": 70.5},
    }
    summary = summarize(matrix, [replace(result, policies=policies) for result in RESULTS])
    full = summary["variants"]["full"]
    assert (full["outage_sum_rate"]["iqm"], full["outage_best_of_16"]["iqm"]) == (71, 72)
    assert summary["references"] == {"wmmse": policies["wmmse"]}
    write_report(tmp_path / "report.md", matrix, summary, "command", [], [])
    assert "brackets its 5 % outage: WMMSE 91.00 (70.50)." in (tmp_path / "report.md").read_text()


def test_report_does_not_hide_seeds_that_never_got_there(matrix, tmp_path):
    write_report(tmp_path / "report.md", matrix, summarize(matrix, RESULTS), "the command", [], [])
    text = (tmp_path / "report.md").read_text()
    assert "50.0 m [40.0, ∞], 2/3" in text
    assert "| -, 0/3 |" in text
    assert "**< 0.09**" in text
    assert "the command" in text


def test_a_scenario_without_a_finished_cell_does_not_break_the_report(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text("{baseline: ddpg, ours: full, variants: {ddpg: [], full: []}, scenarios: {default: [], far: []}}")
    matrix = read_matrix([f"conf={path}", "seeds=3"])
    summary = summarize(matrix, RESULTS)
    assert summary["scenarios"]["default"]["ratios"] == summary["ratios"]
    write_report(tmp_path / "report.md", matrix, summary, "command", [], [])
    assert "## Scenario far" in (tmp_path / "report.md").read_text()


def test_a_variant_without_a_finished_cell_leaves_the_others_standing(matrix, tmp_path):
    summary = summarize(matrix, RESULTS[:3])
    assert summary["ratios"]["final_sum_rate"] is None
    assert summary["variants"]["full"]["final"] == {"iqm": None, "ci": [None, None]}
    write_report(tmp_path / "report.md", matrix, summary, "command", [], matrix.cells[3:])
    assert "3 of 6 cells failed" in (tmp_path / "report.md").read_text()

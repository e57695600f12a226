"""Training again after a change: how soon a level is reached that training from scratch reaches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_summary import result

from d2rl.benchmark.figures import draw_figures
from d2rl.benchmark.levels import BACK, time_to_levels
from d2rl.benchmark.matrix import read_matrix
from d2rl.benchmark.report import write_report
from d2rl.benchmark.summary import summarize

MATRIX = """
baseline: ddpg
ours: full_on
variants:
  ddpg: {conf: ddpg}
  ddpg_on: {conf: ddpg, initial: ddpg}
  full: []
  full_on: {title: continued, initial: full}
scenarios: {far: [scenario.cell_radius=200], default: []}
"""
CURVES = {  # gap closed at these seconds, of two seeds
    "ddpg": [[(1, 0.2), (10, 0.70), (40, 0.80)], [(1, 0.2), (20, 0.77), (40, 0.80)]],
    "ddpg_on": [[(0, 0.5), (5, 0.77), (40, 0.79)], [(0, 0.5), (7, 0.78), (40, 0.79)]],
    "full": [[(1, 0.5), (4, 0.96), (40, 1.00)], [(1, 0.5), (6, 0.97), (40, 1.00)]],
    "full_on": [[(0, 0.96), (4, 0.99), (40, 1.01)], [(0, 0.94), (2, 0.97), (40, 1.01)]],
}


@pytest.fixture
def matrix(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(MATRIX)
    return read_matrix([f"conf={path}", "seeds=2", f"out={tmp_path}"])


@pytest.fixture
def results(tmp_path):
    return [written(tmp_path, name, seed, curve) for name, of in CURVES.items() for seed, curve in enumerate(of)]


def written(place: Path, variant: str, seed: int, curve: list[tuple[float, float]]):
    folder = place / f"{variant}-{seed}"
    folder.mkdir()
    lines = ["time/total,eval/gap_closed", *(f"{seconds},{gap}" for seconds, gap in curve)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    one = result(variant, seed, 80, [1, 2, 3], 40)
    return replace(one, scenario="far", gap_closed=curve[-1][1], folder=folder)


def test_levels_are_those_of_training_from_scratch_and_time_0_counts(matrix, results):
    back = summarize(matrix, results)["retraining"]
    own = {name: one["own"] for name, one in back["variants"].items()}
    best = {name: one["best"] for name, one in back["variants"].items()}
    assert (BACK, back["best"]) == (0.95, "full")
    assert own["ddpg_on"]["level"] == pytest.approx(0.95 * 0.8)
    assert {name: one["level"] for name, one in best.items()} == dict.fromkeys(CURVES, pytest.approx(0.95))
    assert (own["ddpg"]["value"], own["ddpg_on"]["value"]) == (30, 6)  # (40 + 20) / 2 and (5 + 7) / 2
    assert (best["full"]["value"], best["full_on"]["value"]) == (5, 1)  # (4 + 6) / 2 and (0 + 2) / 2
    assert own["ddpg_on"]["ratio"]["value"] == pytest.approx(0.2)
    assert own["full_on"]["ratio"]["value"] == pytest.approx(0.2)
    assert (best["ddpg"]["value"], best["ddpg"]["reached"], best["ddpg"]["of"]) == (None, 0, 2)
    assert best["full_on"]["ratio"]["value"] is None  # the baseline never got there
    assert best["full_on"]["ratio_below"] == pytest.approx(1 / 40)  # in 40 s of training
    assert own["full_on"]["ratio_below"] is None
    assert back["variants"]["full_on"]["before"]["value"] == pytest.approx(0.95)
    assert back["variants"]["full"]["before"]["value"] is None


def test_gaps_that_are_unknown_are_left_out(matrix, results, tmp_path):
    """Where the references reach nothing, metrics.csv says nan and eval.json null."""
    unknown = []
    for one in results:
        (one.folder / "metrics.csv").write_text("time/total,eval/gap_closed\n1.0,nan\n2.0,nan\n")
        unknown.append(replace(one, gap_closed=None, wmmse_ratio=None))
    summary = summarize(matrix, unknown)
    assert "retraining" not in summary["scenarios"]["far"]
    assert summary["scenarios"]["far"]["variants"]["full"]["gap_closed"]["iqm"] is None
    write_report(tmp_path / "report.md", matrix, summary, "command", draw_figures(matrix, unknown, summary), [])
    assert "nan" not in (tmp_path / "report.md").read_text()
    mixed = [*results[:2], *unknown[2:]]  # ddpg alone is known
    for (name, of), one in zip(((n, c) for n, some in CURVES.items() for c in some), results, strict=True):
        if name == "ddpg":
            lines = ["time/total,eval/gap_closed", *(f"{seconds},{gap}" for seconds, gap in of)]
            (one.folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    back = summarize(matrix, mixed)["retraining"]
    assert back["variants"]["ddpg"]["own"]["level"] == pytest.approx(0.95 * 0.8)
    assert back["variants"]["ddpg_on"]["before"]["value"] is None
    assert list(time_to_levels(mixed)) == ["ddpg"]


def test_the_report_and_a_figure_show_them(matrix, results, tmp_path):
    summary = summarize(matrix, results)
    figures = draw_figures(matrix, results, summary)
    write_report(tmp_path / "report.md", matrix, summary, "command", figures, [])
    text = (tmp_path / "report.md").read_text()
    assert "| far | continued | 0.950 | 0.950 | 1.0 [0.0, 2.0], 2/2 | 0.20" in text
    assert "| far | ddpg | - | 0.760 | 30.0 [20.0, 40.0], 2/2 | - | 0.950 | -, 0/2 | - |" in text
    assert text.count("![retraining](retraining.png)") == 1
    assert (tmp_path / "retraining.png").stat().st_size > 5000


def test_a_benchmark_that_continues_nothing_has_no_such_part(tmp_path, results):
    path = tmp_path / "plain.yaml"
    path.write_text("{baseline: ddpg, ours: full, variants: {ddpg: [], full: []}, scenarios: {far: []}}")
    plain = read_matrix([f"conf={path}"])
    assert "retraining" not in summarize(plain, [one for one in results if one.variant in plain.variants])


def test_a_level_of_an_algorithm_without_a_finished_cell_is_left_out(matrix, results):
    some = [one for one in results if one.variant != "full"]
    back = summarize(matrix, some)["retraining"]
    assert back["best"] == "ddpg"
    assert back["variants"]["full_on"]["own"] is None
    assert back["variants"]["full_on"]["best"]["value"] == 0
    assert "retraining" not in summarize(matrix, [one for one in results if one.variant == "full_on"])

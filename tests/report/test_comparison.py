"""d2rl-report: runs side by side, from what run directories hold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from d2rl.commands.compare_runs import report_command
from d2rl.common.errors import ConfigError, InputError
from d2rl.config.load import to_yaml
from d2rl.problems import load_config
from d2rl.report.comparison import comparison_page, differing_keys, read_runs, results
from d2rl.runs.csv_logger import CsvLogger


@pytest.fixture
def make_run(tmp_path) -> Callable[..., Path]:
    """Factory of what a finished run leaves: ``make_run("a", 90.0, "seed=1", drops=8)``."""

    def make(name: str, rate: float, *overrides: str, drops: int = 8, metric: str = "sum_rate") -> Path:
        path = tmp_path / name
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(to_yaml(replace(load_config(list(overrides)), run_dir=str(path))))
        policy = {metric: rate, "gap_closed": 0.9, "wmmse_ratio": rate / 90, "latency_ms": 2.0, "jain": None}
        report = {"metric": metric, "unit": "bit/s/Hz", "anchors": ["random", "wmmse"], "shown": [], "drops": drops}
        (path / "eval.json").write_text(json.dumps({**report, "policies": {"d2rl": policy}}))
        timing = {"device": "cpu", "updates": 1000, "total_seconds": rate / 3, "seconds_per_update": 0.02}
        (path / "timing.json").write_text(json.dumps({**timing, "time_to_gap": {"0.80": 1.5, "0.90": None}}))
        log = CsvLogger(path / "metrics.csv")
        for step in range(3):
            log.log_metrics({"time/total": 2.0 * step, f"eval/{metric}": rate - 2 + step}, 32 * step)
        log.save()
        return path

    return make


def test_results_stand_beside_their_difference_from_the_first_run(make_run):
    runs = read_runs([make_run("a", 90.0), make_run("b", 91.5), make_run("c", 88.0)])
    rows = {row.label: row for row in results(runs)}
    assert rows["sum rate"].values == [90.0, 91.5, 88.0]
    assert rows["sum rate"].differences == [None, 1.5, -2.0]
    assert rows["ms an update"].values == [20.0, 20.0, 20.0]
    assert rows["to gap closed 0.80 (s)"].differences == [None, 0.0, 0.0]
    assert not {"to gap closed 0.90 (s)", "jain", "rate p5"} & set(rows)  # no run has them


def test_only_keys_that_differ_are_shown(make_run):
    runs = read_runs(
        [make_run("a", 90.0, "seed=1"), make_run("b", 90.0, "seed=1", "ddpg.batch=16", "logger.mode=disabled")]
    )
    assert differing_keys(runs) == [("ddpg.batch", [32, 16])]


def test_the_page_holds_curves_tables_and_differences_and_needs_no_network(make_run):
    paths = [make_run("a", 90.0), make_run("b<b>", 91.5, "ddpg.batch=16")]
    page = comparison_page(read_runs(paths))
    for text in ("91.500", "+1.500", "ddpg.batch", "b&lt;b&gt;", "training time", "environment steps"):
        assert text in page
    assert "b<b>" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "same drops" not in page


@pytest.mark.parametrize("other", [{"drops": 4}, "evaluation.seed=3", "scenario.bs_power=30"])
def test_runs_of_other_drops_are_told(make_run, other):
    b = make_run("b", 90.0, **other) if isinstance(other, dict) else make_run("b", 90.0, other)
    assert "not judged on the same drops" in comparison_page(read_runs([make_run("a", 90.0), b]))


def test_runs_that_learned_otherwise_were_judged_alike(make_run):
    runs = read_runs([make_run("a", 90.0), make_run("b", 90.0, "scenario.stored_states=50", "ddpg.gamma=0.5")])
    assert "not judged on the same drops" not in comparison_page(runs)


def test_runs_of_the_same_name_are_told_apart(make_run):
    runs = read_runs([make_run("x/run", 90.0), make_run("y/run", 90.0)])
    assert [run.name for run in runs] == ["x/run", "y/run"]


def test_the_command_writes_the_page_and_says_where(make_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    report_command([str(make_run("a", 90.0)), str(make_run("b", 91.5)), "out=page.html"])
    said = capsys.readouterr().out
    assert "91.500 (+1.500)" in said
    assert "written: page.html" in said
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")


def spoil(name: str, content: str) -> Callable[[Path], Any]:
    return lambda path: (path / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "eval.json").unlink(), "no finished run: eval.json is not there"),
        (lambda path: (path / "config.yaml").unlink(), "no finished run: config.yaml is not there"),
        (spoil("eval.json", "{"), "cannot be read as a run"),
        (spoil("eval.json", "{}"), "cannot be read as a run"),
        (spoil("config.yaml", "sed: 1"), "cannot be read as a run: .*sed is not a key"),
    ],
)
def test_what_is_no_finished_run_is_named(make_run, damage, message):
    good, bad = make_run("a", 90.0), make_run("b", 90.0)
    damage(bad)
    with pytest.raises(InputError, match=message) as caught:
        read_runs([good, bad])
    assert str(bad) in str(caught.value)


def test_runs_that_cannot_be_compared_are_refused(make_run, tmp_path):
    path = str(make_run("a", 90.0))
    with pytest.raises(ConfigError, match="two run directories or more, got 1"):
        report_command([path])
    with pytest.raises(InputError, match="twice"):
        report_command([path, path])
    with pytest.raises(InputError, match="a is judged by sum_rate and b by delay"):
        report_command([path, str(make_run("b", 1.0, metric="delay"))])
    with pytest.raises(ConfigError, match="cannot be written"):
        report_command([path, str(make_run("c", 1.0)), f"out={tmp_path / 'no/such/page.html'}"])

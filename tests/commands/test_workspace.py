"""The W&B workspace as code: it can be built without a server, and shows every metric that there is."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from d2rl.commands.workspace import METRICS, SECTIONS, DashboardsConfig, dashboards_command, workspace
from d2rl.common.errors import ConfigError
from d2rl.config.defaults import FullDuplexConfig
from d2rl.evaluation.episodes import EpisodeEvaluation
from d2rl.problems.traffic.problem import TrafficProblem
from d2rl.problems.traffic.settings import TrafficConfig
from d2rl.runs.run_directory import RunDirectory
from d2rl.training.train import train

DOCS = Path(__file__).resolve().parents[2] / "docs"
ONLY_WHEN_SOMETHING_IS_WRONG = {
    "charts/alert_early_divergence",
    "charts/alert_skipped_steps",
    "charts/alert_refused_transitions",
}
ONLY_ON_A_GPU = {"time/update"}
OF_TRAFFIC = {
    f"eval/{name}"
    for name in (
        *("return", "mean_delay", "delay_p95", "dropped", "dropped_late", "dropped_full"),
        *("throughput", "energy_efficiency", "jain", "short"),
    )
}


@pytest.fixture
def built():
    pytest.importorskip("wandb_workspaces", reason="builds the workspace; extra `dashboards`")
    return workspace("somebody", "d2rl", "mine")


def test_every_metric_of_a_whole_run_has_a_panel_and_every_panel_its_metrics(tiny, tmp_path):
    columns: set[str] = set()
    runs = (
        ("reward.case=designed_gdm", "action.objective=mixed", "stages.action=0", "stages.reward=0", "stages.state=0"),
        ("stages.action=null", "stages.reward=auto", "reward.generated=true", "stages.state=auto"),
    )
    for number, overrides in enumerate(runs):
        more = (
            "trainer.updates_per_epoch=12",
            "chi.policy=adaptive",
            "chi.threshold=9",
            f"run_dir={tmp_path}/{number}",
        )
        config = tiny(*overrides, *more)
        run = RunDirectory.create(config, "test")
        train(config, run)
        with open(run.metrics, newline="") as file:
            columns |= set(next(csv.reader(file)))
    assert columns - {"environment_steps"} <= METRICS
    assert columns >= METRICS - ONLY_WHEN_SOMETHING_IS_WRONG - ONLY_ON_A_GPU - OF_TRAFFIC


def test_what_is_measured_of_queues_has_a_panel():
    problem = TrafficProblem(TrafficConfig(), FullDuplexConfig(episode_length=2))
    policy = problem.references()["round_robin"]
    measured = {f"eval/{name}" for name in EpisodeEvaluation(problem, 2, 0).judge(policy)}
    assert measured == OF_TRAFFIC
    assert measured <= METRICS


def test_every_metric_of_a_panel_is_explained():
    text = (DOCS / "metrics.md").read_text()
    named = set(re.findall(r"`((?:charts|eval|losses|renpnn|senpnn|time)/[a-z_/0-9]+)`", text))
    kinds = {name for name in METRICS if re.fullmatch(r"senpnn/(downlink|uplink|cross|self_interference)/\w+", name)}
    assert METRICS - kinds <= named
    assert {name.rpartition("/")[2] for name in kinds} <= set(re.findall(r"`\.\.\./(\w+)`", text))


def test_sections_are_grouped_by_explorer(built):
    names = [section.name for section in built.sections]
    assert names == [part.name for part in SECTIONS]
    for explorer in ("AENPNN", "RENPNN", "SENPNN"):
        (one,) = [section for section in built.sections if section.name.startswith(explorer)]
        own = {name for panel in one.panels for name in panel.y}
        assert all(explorer.lower() in name for name in own)


def test_what_would_be_sent_holds_every_panel_over_environment_steps(built):
    view = built._to_model().model_dump(by_alias=True, exclude_none=True)
    assert view["entity"] == "somebody"
    assert view["project"] == "d2rl"
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    shown = [section for section in sections if section["panels"]]
    assert [section["name"] for section in shown] == [part.name for part in SECTIONS]
    for section, part in zip(shown, SECTIONS, strict=True):
        assert [panel["config"]["chartTitle"] for panel in section["panels"]] == [one.title for one in part.panels]
        for panel, asked in zip(section["panels"], part.panels, strict=True):
            assert tuple(panel["config"]["metrics"]) == asked.metrics
            assert panel["config"]["xAxis"] == asked.x


def test_without_entity_the_command_shows_the_layout_and_needs_no_account(capsys, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("COLUMNS", "250")
    dashboards_command([])
    shown = capsys.readouterr().out
    assert all(panel.title in shown for part in SECTIONS for panel in part.panels)
    assert "entity=NAME" in shown


def test_without_a_key_the_command_says_so(built, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="wandb login"):
        dashboards_command(["entity=somebody"])


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(ConfigError, match=r"d2rl\[dashboards\]"):
        workspace("somebody", "d2rl")


def test_the_project_is_the_one_that_runs_log_to(tiny):
    assert DashboardsConfig().project == tiny().logger.project

"""Staged integration: when each explorer begins, and what is left on disk when it does."""

from __future__ import annotations

import csv

import pytest

from d2rl.algorithm.agent import D2RL
from d2rl.config.defaults import StagesConfig
from d2rl.runs.tracking import CsvLogger
from d2rl.training.callbacks import StagedIntegration
from d2rl.training.checkpoint import load_checkpoint

NAMES = ("action", "reward", "state")


def stages_by_epoch(tiny, fit, config: StagesConfig, epochs: int = 4) -> list[str]:
    """Initials of the stages that are on in every epoch."""
    agent, seen = D2RL(tiny("trainer.updates_per_epoch=2", "stages.state=0")), []
    fit(
        agent,
        StagedIntegration(config),
        lambda _, agent: seen.append("".join(name[0] for name in NAMES if agent.stages[name])),
        epochs=epochs,
    )
    return seen


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (StagesConfig(action=0, reward=1, state=3), ["a", "ar", "ar", "ars"]),
        (StagesConfig(action=1, reward=1, state=1), ["", "ars", "ars", "ars"]),
        (StagesConfig(action=0, reward=None, state=2), ["a", "a", "as", "as"]),
        (StagesConfig(action=None, reward=2, state=None), ["", "", "r", "r"]),
        (StagesConfig(action=None, reward=None, state=None), ["", "", "", ""]),
    ],
    ids=str,
)
def test_a_stage_begins_at_its_epoch(tiny, fit, config, expected):
    assert stages_by_epoch(tiny, fit, config) == expected


def test_a_change_is_logged_and_checkpointed(tiny, fit, tmp_path):
    agent, logger = D2RL(tiny("stages.state=0")), CsvLogger(tmp_path / "metrics.csv")
    fit(agent, StagedIntegration(StagesConfig(action=0, reward=1, state=2), tmp_path), epochs=3, logger=logger)
    with open(tmp_path / "metrics.csv") as file:
        rows = [
            (int(row["environment_steps"]), *(row[f"charts/stage_{name}"] for name in NAMES))
            for row in csv.DictReader(file)
        ]
    assert rows == [(0, "1.0", "0.0", "0.0"), (32, "1.0", "1.0", "0.0"), (64, "1.0", "1.0", "1.0")]
    # before the first update there is nothing to keep
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["stage-reward.ckpt", "stage-state.ckpt"]
    for name, updates in (("reward", 4), ("state", 8)):
        kept = load_checkpoint(tmp_path / f"stage-{name}.ckpt")["d2rl"]
        assert kept["updates"] == updates
        assert kept["stages"][name]


def plateau(tiny, fit, config: StagesConfig, rates: list[float], saved: dict | None = None) -> tuple[list[str], dict]:
    """Stages that are on after each of some evaluations, all in the first epoch."""
    agent, callback, seen = (
        D2RL(tiny(f"trainer.updates_per_epoch={2 * len(rates)}", "stages.state=0")),
        StagedIntegration(config),
        [],
    )
    if saved:
        callback.load_state_dict(saved)
    remaining = iter(rates)

    def evaluate(trainer, agent):
        callback.evaluated(next(remaining), trainer, agent)
        seen.append("".join(name[0] for name in NAMES if agent.stages[name]))

    fit(agent, callback, evaluate)
    return seen, callback.state_dict()


def test_the_next_stage_begins_early_when_the_policy_has_levelled_off(tiny, fit):
    config = StagesConfig(action=5, reward=6, state=7, plateau=2)
    seen, _ = plateau(tiny, fit, config, [10, 11, 11, 10, 12, 11, 11.5, 11, 12])
    assert seen == ["", "", "", "a", "a", "a", "ar", "ar", "ars"]


def test_rising_rates_begin_nothing(tiny, fit):
    seen, _ = plateau(tiny, fit, StagesConfig(action=5, reward=6, state=7, plateau=1), [10, 11, 12, 13])
    assert seen == [""] * 4


def test_without_a_plateau_rule_only_epochs_count(tiny, fit):
    seen, _ = plateau(tiny, fit, StagesConfig(action=5, reward=6, state=7, plateau=0), [10] * 4)
    assert seen == [""] * 4


def test_the_plateau_rule_begins_no_stage_that_is_not_planned(tiny, fit):
    seen, _ = plateau(tiny, fit, StagesConfig(action=None, reward=5, state=None, plateau=1), [10] * 4)
    assert seen == ["", "r", "r", "r"]


def test_the_plateau_rule_goes_on_where_it_was(tiny, fit):
    config, rates = StagesConfig(action=5, reward=6, state=7, plateau=3), [10, 11, 9, 10, 10.5, 10]
    whole, end = plateau(tiny, fit, config, rates)
    first, saved = plateau(tiny, fit, config, rates[:3])
    second, resumed = plateau(tiny, fit, config, rates[3:], saved)
    assert whole == [*first, *second] == ["", "", "", "", "a", "a"]
    assert end == resumed

"""Staged integration: when each explorer begins, and what is left on disk when it does."""

from __future__ import annotations

import csv
import logging

import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.common.errors import ConfigError
from d2rl.config.defaults import StagesConfig
from d2rl.problems import load_config
from d2rl.runs.tracking import CsvLogger
from d2rl.training.callbacks import StagedIntegration, stages
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


def decided(tiny, fit, monkeypatch, numbers: dict[str, float], *overrides: str, **fitting) -> tuple[D2RL, list[str]]:
    """The agent, and the stages that are on in each of four epochs, where auto is told these numbers."""
    for name, number in numbers.items():
        monkeypatch.setitem(stages.FORECASTS, name, (lambda agent, told=number: torch.tensor(told), "a number"))
    agent, seen = D2RL(tiny("trainer.updates_per_epoch=2", "trainer.epochs=4", "stages.state=auto", *overrides)), []

    def look(_, agent):
        seen.append("".join(name[0] for name in NAMES if agent.stages[name]))

    fit(agent, StagedIntegration(agent.config.stages), look, **{"epochs": 4, **fitting})
    return agent, seen


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({"reward": 0.1, "state": 0.1}, ["a", "ars", "ars", "ars"]),
        ({"reward": -0.1, "state": 0.1}, ["a", "as", "as", "as"]),
        ({"reward": 0.1, "state": 0.0}, ["a", "ar", "ar", "ar"]),
        ({"reward": -0.1, "state": float("nan")}, ["a", "a", "a", "a"]),
    ],
    ids=str,
)
def test_auto_begins_a_stage_only_if_its_number_is_high_enough(tiny, fit, monkeypatch, caplog, numbers, expected):
    with caplog.at_level(logging.INFO):
        _, seen = decided(tiny, fit, monkeypatch, numbers, "stages.reward=auto", "reward.generated=true")
    assert seen == expected
    for name, number in numbers.items():
        verdict = "begins it" if name[0] in expected[-1] else "leaves it out"
        (told,) = [text for text in caplog.messages if text.startswith(f"stage {name}: auto")]
        assert f"auto {verdict} after update 2: a number is {number:.3f}" in told


def test_an_explorer_rests_once_auto_has_left_its_stage_out(tiny, fit, monkeypatch):
    numbers = {"reward": 0.0, "state": 0.0}
    agent, _ = decided(tiny, fit, monkeypatch, numbers, "stages.reward=auto", "reward.generated=true", epochs=1)
    before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    fit(agent, StagedIntegration(agent.config.stages), epochs=2)
    after = agent.state_dict()
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed >= {"critic", "aenpnn"}
    assert not changed & {"renpnn", "senpnn"}


def test_the_plateau_rule_asks_the_number_of_auto(tiny, fit, monkeypatch):
    for number, expected in ((0.1, ["", "s", "s"]), (-0.1, ["", "", ""])):
        monkeypatch.setitem(stages.FORECASTS, "state", (lambda agent, told=number: torch.tensor(told), "a number"))
        config = StagesConfig(action=None, reward=None, state="auto", plateau=1)
        agent, callback, seen = (
            D2RL(tiny("trainer.updates_per_epoch=6", "stages.state=auto")),
            StagedIntegration(config),
            [],
        )

        def evaluate(trainer, agent, callback=callback, seen=seen):
            callback.evaluated(1.0, trainer, agent)
            seen.append("s" if agent.stages["state"] else "")

        fit(agent, callback, evaluate)
        assert seen == expected


def test_the_number_of_auto_is_logged_where_it_decides(tiny, fit, tmp_path):
    agent, logger = D2RL(tiny("trainer.epochs=5", "stages.state=auto")), CsvLogger(tmp_path / "metrics.csv")
    fit(agent, StagedIntegration(agent.config.stages), epochs=2, logger=logger)
    with open(tmp_path / "metrics.csv") as file:
        found = [
            (row["environment_steps"], float(row["charts/forecast_state"]))
            for row in csv.DictReader(file)
            if row["charts/forecast_state"]
        ]
    assert [steps for steps, _ in found] == ["32"]
    assert agent.decided == {"state": found[0][1] > 0}


@pytest.mark.parametrize("epochs", [5, 10])
def test_a_resumed_run_decides_as_an_uninterrupted_one(tiny, fit, tmp_path, epochs):
    """Saved after the first epoch: where auto has decided, and an epoch before it does."""
    config, agents = tiny(f"trainer.epochs={epochs}", "stages.state=auto", "chi.policy=fixed"), []
    for length, checkpoint in ((3, None), (1, None), (3, tmp_path / "one.ckpt")):
        agents.append(D2RL(config))
        trainer = fit(agents[-1], StagedIntegration(config.stages), epochs=length, checkpoint=checkpoint)
        if length == 1:
            assert bool(agents[-1].decided) == (epochs == 5)
            trainer.save_checkpoint(tmp_path / "one.ckpt")
    whole, _, resumed = agents
    assert whole.decided == resumed.decided != {}
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in whole.state_dict().items())


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["stages.reward=auto"], r"reward\.generated=false leaves it nothing to decide"),
        (["stages.reward=auto", "reward.generated=true", "ddpg.gamma=0.5"], r"set ddpg\.gamma=0"),
        (["stages.reward=auto", "reward.generated=true", "ddpg.analytic=true"], r"set stages\.reward=null"),
    ],
    ids=str,
)
def test_auto_with_nothing_to_decide_is_refused(tiny, asked, told):
    with pytest.raises(ConfigError, match=told):
        D2RL(tiny(*asked))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            ["problem=gymnasium", "gymnasium.id=Pendulum-v1"],
            r"cannot be put into a synthetic one; set stages\.state to an",
        ),
        (["problem=ris"], r"problem=ris has no rows to diffuse; set stages\.state=null"),
    ],
    ids=["observations", "no rows"],
)
def test_auto_refuses_a_state_stage_whose_states_cannot_be_replaced(asked, told):
    with pytest.raises(ConfigError, match=told):
        D2RL(load_config([*asked, "action.candidates=1", "stages.state=auto"]))

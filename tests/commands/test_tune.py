"""d2rl-tune: search spaces, a search that goes on, trainings that end early, what the best one leaves."""

from __future__ import annotations

import sys
from pathlib import Path

import optuna
import pytest

from d2rl.commands.search_space import read_space
from d2rl.commands.tune import tune_command
from d2rl.common.errors import ConfigError, InputError
from d2rl.config.defaults import Config
from d2rl.config.load import check, shipped_conf
from d2rl.config.schema import leaves
from d2rl.evaluation import evaluate as evaluation
from d2rl.problems import load_config
from d2rl.problems.full_duplex import references

KEYS = leaves(Config())
SPACE = "ddpg.actor_rate: {low: 1.0e-4, high: 1.0e-2, log: true}\nddpg.batch: {choices: [4, 8]}\n"

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def search(tiny_arguments, tmp_path, monkeypatch) -> list[str]:
    """Arguments of a search of small trainings in an empty folder."""
    monkeypatch.setattr(evaluation, "LATENCY_SECONDS", 0.0)
    monkeypatch.setattr(references, "LIMIT", 2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/tune").mkdir(parents=True)
    (tmp_path / "conf/tune/mine.yaml").write_text(SPACE)
    return ["space=mine", "out=found", *tiny_arguments, "trainer.epochs=3"]


def trials() -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="d2rl", storage="sqlite:///found/study.db").trials


def test_a_space_says_what_keys_may_become(tmp_path):
    (tmp_path / "space.yaml").write_text(f"{SPACE}action.steps: {{low: 2, high: 9}}\n")
    assert read_space(str(tmp_path / "space.yaml"), KEYS) == {
        "ddpg.actor_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "ddpg.batch": {"choices": [4, 8]},
        "action.steps": {"low": 2, "high": 9, "log": False},
    }


@pytest.mark.parametrize("path", sorted((shipped_conf() / "tune").glob("*.yaml")), ids=lambda path: path.stem)
def test_both_ends_of_a_shipped_space_are_configurations_that_run(path):
    space = read_space(path.stem, KEYS)
    for end in ("low", "high"):
        check(load_config(["conf=full_duplex", *(f"{k}={v[end]}" for k, v in space.items() if end in v)]))
    for key, bounds in space.items():
        for choice in bounds.get("choices", ()):
            check(load_config(["conf=full_duplex", f"{key}={choice}"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold lines such as"),
        ("ddpg.actor_rat: {low: 1, high: 2}", r"ddpg\.actor_rat is not a key"),
        ("ddpg.batch: 3", r"ddpg\.batch must be \{low"),
        ("ddpg.batch: {low: 3}", "low and high are for numbers"),
        ("ddpg.batch: {low: 3, high: 2}", r"low \(3\) must be below high \(2\)"),
        ("ddpg.batch: {low: 0, high: 2}", r"ddpg\.batch cannot be"),
        ("ddpg.noise: {low: 0, high: 2, log: true}", "above 0 with log"),
        ("ddpg.batch: {choices: 3}", "choices is a list"),
        ("ddpg.batch: {choices: [a]}", r"ddpg\.batch cannot be 'a'"),
        ("network.kind: {low: 1, high: 2}", "low and high are for numbers"),
        ("ddpg.batch: {low: 1, high: 2, step: 3}", r"must be \{low"),
    ],
)
def test_a_space_that_cannot_be_used_is_told(tmp_path, text, message):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_space(str(path), KEYS)
    assert str(path) in str(caught.value)


def test_a_space_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(ConfigError, match=r"space=rate is not there.*rates"):
        read_space("rate", KEYS)


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_and_leaves_the_best_configuration(search, capsys):
    tune_command(["trials=2", *search])
    tune_command(["trials=3", *search])
    assert len(trials()) == 3
    best = max(trials(), key=lambda trial: trial.value)
    assert len(best.intermediate_values) == 3
    config = load_config(["conf=found/best.yaml"])
    assert config.ddpg.actor_rate == pytest.approx(best.params["ddpg.actor_rate"])
    assert (config.ddpg.batch, config.network.width, config.evaluation.seed) == (best.params["ddpg.batch"], 8, 0)
    assert Path("found/trial-0000/metrics.csv").is_file()
    assert not Path("found/trial-0000/checkpoints").exists()
    assert load_config([f"conf={Path('found/trial-0000/config.yaml')}"]).evaluation.seed == 77
    assert "best: trial" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="another arguments"):
        tune_command(["trials=3", *search, "ddpg.gamma=0.5"])


@pytest.mark.slow
def test_a_training_that_is_worse_than_most_ends_early(search):
    """After trials that no training can match."""
    tune_command(["trials=1", *search])
    study = optuna.load_study(study_name="d2rl", storage="sqlite:///found/study.db")
    good = dict.fromkeys(range(3), 1e6)
    bounds = {
        "ddpg.actor_rate": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
        "ddpg.batch": optuna.distributions.CategoricalDistribution([4, 8]),
    }
    for _ in range(5):
        parameters = {"ddpg.actor_rate": 1e-3, "ddpg.batch": 8}
        study.add_trial(
            optuna.create_trial(value=1e6, intermediate_values=good, params=parameters, distributions=bounds)
        )
    tune_command(["trials=7", *search])
    last = trials()[-1]
    assert last.state == optuna.trial.TrialState.PRUNED
    assert len(last.intermediate_values) == 2


def test_a_database_that_is_none_is_told(search):
    Path("found").mkdir()
    Path("found/study.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(InputError, match=r"study\.db cannot be used"):
        tune_command(["trials=1", *search])


def test_without_optuna_the_extra_is_named(search, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'd2rl\[tune\]'"):
        tune_command(["trials=1", *search])

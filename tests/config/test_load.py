"""Configurations: what is accepted, what is refused and what the refusal says."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from d2rl.common.errors import CheckpointError, ConfigError
from d2rl.config.defaults import Config
from d2rl.config.load import check, conf_name, from_mapping, load, to_yaml
from d2rl.problems import check_config


@pytest.fixture
def conf(tmp_path):
    """Writes YAML files into a directory of their own and gives that directory."""

    def write(**files: str) -> Path:
        for name, content in files.items():
            (tmp_path / f"{name}.yaml").write_text(content)
        return tmp_path

    return write


def message_of(arguments, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        load(arguments, **options)
    return str(caught.value)


def test_without_arguments_the_defaults_of_the_tree_hold():
    assert load([]) == Config()


def test_a_file_says_only_what_differs_and_arguments_come_last(conf):
    directory = conf(small="scenario:\n  downlink_users: 3\n  uplink_users: 2\nddpg.batch: 8\n")
    config = load(["ddpg.batch=16", "conf=small", "scenario.uplink_users=1"], directory=directory)
    assert (config.scenario.downlink_users, config.scenario.uplink_users, config.ddpg.batch) == (3, 1, 16)
    assert config.network == Config().network


def test_the_last_of_two_arguments_counts(conf):
    directory = conf(a="seed: 1", b="network.width: 7")
    config = load(["seed=3", "conf=a", "conf=b", "seed=4"], directory=directory)
    assert (config.seed, config.network.width) == (4, 7)


def test_a_base_is_loaded_first(conf):
    directory = conf(
        base="seed: 1\nddpg: {batch: 8, replay: 100}",
        middle="defaults: base\nseed: 2",
        top="defaults: middle\nddpg.batch: 4",
    )
    config = load(["conf=top"], directory=directory)
    assert (config.seed, config.ddpg.batch, config.ddpg.replay) == (2, 4, 100)


def test_a_path_to_a_file_serves_as_configuration(conf):
    assert load([f"conf={conf(mine='seed: 9') / 'mine.yaml'}"]).seed == 9


def test_names_are_searched_in_the_working_directory_first(conf, monkeypatch):
    directory = conf(unused="")
    (directory / "conf").mkdir()
    (directory / "conf" / "local.yaml").write_text("seed: 12")
    monkeypatch.chdir(directory)
    assert load(["conf=local"]).seed == 12


UNKNOWN = "is not a key"
BAD = [  # argument, key that the message names, what else it says
    ("scenario.downlink_user=3", "scenario.downlink_user", "Did you mean scenario.downlink_users"),
    ("cell_radius=50", "cell_radius", "Did you mean scenario.cell_radius?"),
    ("scenaro.cell_radius=50", "scenaro.cell_radius", "Did you mean scenario.cell_radius"),
    ("Seed=3", "Seed", "seed"),
    ("tau=0.1", "tau", "Did you mean ddpg.target_rate?"),
    ("zzz=1", "zzz", "The sections are network"),
    ("lr=1e-3", "lr", "Did you mean ddpg.actor_rate or ddpg.critic_rate?"),
    ("trainer.batch_size=3", "trainer.batch_size", "Did you mean ddpg.batch or ddpg.critic_batch?"),
    ("max_epochs=3", "max_epochs", "Did you mean trainer.epochs?"),
    ("device=cuda", "device", "Did you mean trainer.accelerator"),
    ("--wandb", "wandb", "Did you mean logger.mode?"),
    ("ckpt_path=last.ckpt", "ckpt_path", "Did you mean resume"),
    ("scenario.cell_radius.x=3", "scenario.cell_radius.x", UNKNOWN),
    ("ddpg..batch=3", "ddpg..batch", "ddpg.batch"),
    ("scenario.=3", "scenario.", UNKNOWN),
    (".=3", ".", UNKNOWN),
    ("scenario={cel_radius: 3}", "scenario.cel_radius", "scenario.cell_radius"),
    ("scenario=3", "scenario", "is a section"),
    ("scenario=null", "scenario", "is a section"),
    ("logger=online", "logger", "is a section"),
    ("foo", "foo", "key=value"),
    ("--lr", "lr", "key=value"),
    ("--ddpg.batch=3", "ddpg.batch", "write ddpg.batch=3"),
    ("seed = 3", "seed", "write seed=3"),
    ("seed= 3", "seed", "write seed=3"),
    ("seed", "seed", "write seed=VALUE"),
    ("seed=", "seed", "has no value"),
    ("run_dir=", "run_dir", "run_dir=null stands for none"),
    ("=3", "=3", "names no key"),
    ("", "''", "names no key"),
    ("seed=1.5", "seed", "cannot be 1.5; it must be a whole number at least 0"),
    ("seed=-1", "seed", "cannot be -1"),
    ("seed=many", "seed", "cannot be 'many' (text); it must be a whole number"),
    ("seed=nan", "seed", "cannot be nan"),
    ("seed=inf", "seed", "cannot be inf"),
    ("seed=1e400", "seed", "cannot be 1e400"),
    ("seed=1e30", "seed", "cannot be 1e30"),
    ("seed=9223372036854775808", "seed", "cannot be 9223372036854775808"),
    ("seed=true", "seed", "cannot be 'true'"),
    ("seed=null", "seed", "cannot be null"),
    ("seed=1:30", "seed", "cannot be '1:30'"),
    ("seed=[1]", "seed", "a list"),
    ("seed=[1", "seed", "cannot be '[1'"),
    ("seed={a: 1}", "seed", "a section"),
    ("seed=!!python/name:os.system", "seed", "cannot be"),
    ("seed=*a", "seed", "cannot be"),
    ("seed=" + "[" * 600, "seed", "cannot be"),
    ("network.width=1" + "0" * 5000, "network.width", "cannot be"),
    ("ddpg.gamma=1", "ddpg.gamma", "at least 0 and below 1"),
    ("ddpg.gamma=nan", "ddpg.gamma", "cannot be nan"),
    ("ddpg.actor_rate=0", "ddpg.actor_rate", "a number above 0"),
    ("ddpg.actor_rate=-inf", "ddpg.actor_rate", "cannot be -inf"),
    ("ddpg.actor_rate=1,5", "ddpg.actor_rate", "cannot be '1,5' (text)"),
    ("chi.maximum=1.01", "chi.maximum", "at most 1"),
    ("stages.state=-1", "stages.state", "at least 0, or auto, or null"),
    ("stages.action=auto", "stages.action", "cannot be 'auto' (text); it must be a whole number at least 0, or null"),
    ("stages.state=soon", "stages.state", "a whole number at least 0, or auto, or null"),
    ("logger.mode=off", "logger.mode", "one of online, offline, disabled. Did you mean offline?"),
    ("network.kind=link-graph", "network.kind", "Did you mean link_graph?"),
    ("network.kind=null", "network.kind", "cannot be null"),
    ("trainer.progress=maybe", "trainer.progress", "true or false"),
    ("run_dir='  '", "run_dir", "must be text"),
    ("run_dir=???", "run_dir", "must be text"),
    ("run_dir=a\0b", "run_dir", "must be text"),
    ("run_dir=${nope}", "run_dir", "'nope' not found"),
    ("run_dir=${", "run_dir", "cannot be resolved"),
    ("run_dir=${run_dir}", "run_dir", "Recursive"),
    ("seed=${scenario}", "seed", "cannot be"),
    ("conf=", "conf", "has no value"),
    ("conf=/nowhere/at_all.yaml", "conf=/nowhere/at_all.yaml", "is not there"),
    ("conf=" + "x" * 5000, "conf", "is not there"),
]


@pytest.mark.parametrize(("argument", "key", "says"), BAD, ids=[argument[:30] for argument, *_ in BAD])
def test_a_bad_argument_is_named_with_the_remedy(argument, key, says):
    message = message_of(["network.layers=1", argument])
    assert message.startswith("config error: ")
    assert re.search(rf"(?<![\w.]){re.escape(key)}", message), message
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize("arguments", [["seed", "=", "3"], ["seed", "=3"], ["--seed", "3"], ["seed=", "3"]])
def test_an_argument_torn_apart_by_blanks_is_put_together(arguments):
    if arguments[0] != "seed=":
        assert "write seed=3" in message_of(arguments)
    else:
        assert "seed= has no value" in message_of(arguments)


def test_a_missing_name_lists_the_others_nearest_first(conf):
    directory = conf(headline="", full_duplex="", zeta="")
    message = message_of(["conf=headlin"], directory=directory)
    assert "conf=headlin is not there" in message
    assert message.endswith(": headline, full_duplex, zeta.")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("seed: 1\nddpg: [1\n", "line 3"),
        ("seed: 1\n  batch: 2\n", "line 2"),
        ("seed: 1\nseed: 2\n", "line 2, column 1 is not valid YAML: seed stands there twice"),
        ("ddpg:\n\tbatch: 2\n", "line 2"),
        ("- seed\n", "must hold `key: value` lines"),
        ("seed", "must hold `key: value` lines"),
        ("scenario:\n  downlink_user: 3\n", "scenario.downlink_user is not a key"),
        ("logger:\n  mode: off\n", "logger.mode cannot be 'off'"),
        ("seed: yes\n", "seed cannot be 'yes'"),
        ("ddpg: 3\n", "ddpg is a section"),
        ("defaults: [a, b]\n", "defaults must be one name"),
        ("defaults: nowhere\n", "defaults: nowhere is not there"),
        ("defaults: bad\n", "cannot be its own base"),
        ("defaults: other\n", "cannot be its own base"),
        ("? [a]\n: 3\n", "bad.yaml"),
        ("ddpg: &a\n  batch: *a\n", "bad.yaml"),
        ("seed: \x01\n", "not valid YAML"),
    ],
)
def test_a_bad_file_is_named_with_the_place(content, says, conf):
    message = message_of(["conf=bad"], directory=conf(bad=content, other="defaults: bad"))
    assert "bad.yaml" in message
    assert says in message


def test_a_file_that_is_no_text_is_refused(conf):
    directory = conf(bad="")
    (directory / "bad.yaml").write_bytes(b"\xff\xfe\x00seed")
    assert "cannot be read" in message_of(["conf=bad"], directory=directory)


def test_an_empty_file_changes_nothing(conf):
    assert load(["conf=empty"], directory=conf(empty="# nothing yet\n")) == Config()


def test_what_was_changed_is_shown_alone_and_is_all_that_is_needed(conf):
    asked = load(["seed=3", "scenario.downlink_users=2", "ddpg.gamma=0.0"])
    shown = to_yaml(asked, changed=True)
    assert yaml.safe_load(shown) == {"seed": 3, "scenario": {"downlink_users": 2}}
    assert load([f"conf={conf(mine=shown) / 'mine.yaml'}"]) == asked


def test_yaml_of_a_configuration_loads_to_the_same(tmp_path):
    config = load(["seed=7", "logger.name=a: 'b' # c", "stages.state=3", "ddpg.actor_rate=1.25e-7"])
    config.run_dir, config.logger.project, config.resume = "${seed}", "off", r"\${x} \\\${y} 010"
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert (tmp_path / "config.yaml").read_text() == to_yaml(config)
    assert load([f"conf={tmp_path / 'config.yaml'}"]) == config


def test_the_configuration_of_a_checkpoint_comes_back_and_can_be_overridden():
    config = load(["seed=7", "scenario.downlink_users=3", "stages.action=null"])
    config.run_dir = "${not a reference}"
    assert from_mapping(asdict(config)) == config
    changed = load(["scenario.uplink_users=2"], base=asdict(config))
    assert (changed.seed, changed.scenario.downlink_users, changed.scenario.uplink_users) == (7, 3, 2)
    assert changed.run_dir == config.run_dir


def test_an_older_checkpoint_takes_the_defaults_of_new_keys():
    assert from_mapping({"scenario": {"downlink_users": 2}}).ddpg == Config().ddpg


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"scenario": {"users": 3}}, "scenario.users is not a key"),
        ({"seed": True}, "seed cannot be true"),
        ({"seed": float("nan")}, "seed cannot be nan"),
        ({"logger": {"mode": False}}, "logger.mode cannot be false (a truth value)"),
        ({"ddpg": 3}, "ddpg is a section"),
    ],
)
def test_a_checkpoint_of_another_version_is_a_checkpoint_error(mapping, says):
    with pytest.raises(CheckpointError, match=re.escape(says)):
        from_mapping(mapping)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["scenario.minimum_distance=100"], ("scenario.minimum_distance", "scenario.cell_radius")),
        (["ddpg.replay=63", "ddpg.batch=64"], ("ddpg.batch", "ddpg.replay")),
        (["state.steps=6", "state.corrupt=7"], ("state.corrupt", "state.steps")),
        (["stages.action=5", "stages.reward=4"], ("stages.action", "stages.reward")),
        (["stages.reward=4", "stages.state=3"], ("stages.reward", "stages.state")),
        (["stages.action=4", "stages.reward=null", "stages.state=3"], ("stages.action", "stages.state")),
        (["stages.reward=3", "stages.state=auto"], ("stages.reward (3)", "stages.state (auto: epoch 2)")),
        (["stages.state=auto", "trainer.epochs=1"], ("auto", "trainer.epochs=1")),
        (["action.objective=weighted", "action.candidates=1"], ("action.objective", "action.candidates")),
        (["reward.risk=cvar", "reward.samples=1"], ("reward.risk", "reward.samples")),
        (["evaluation.weights=1,1,1,1,1,1,1,1,1"], ("evaluation.weights", "10 numbers")),
        (["evaluation.weights=1,1,1,1,1,1,1,1,1,inf"], ("evaluation.weights", "finite")),
        (["logger.project=a/b"], ("logger.project", "W&B")),
    ],
)
def test_values_that_do_not_fit_together_are_both_named(arguments, names):
    config = load(arguments)
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["ddpg.replay=64", "ddpg.batch=64"],
        ["state.corrupt=6", "state.steps=6"],
        ["stages.action=3", "stages.reward=3", "stages.state=9"],
        ["stages.action=null", "stages.reward=null", "stages.state=0"],
        ["stages.action=null", "action.objective=weighted", "action.candidates=1"],
        ["evaluation.weights=1,1,1,1,1,1,1,1,1,0.5"],
        ["logger.project=a/b", "logger.mode=disabled"],
    ],
)
def test_values_that_fit_pass(arguments):
    check(load(arguments))


def test_online_logging_needs_a_key(tmp_path, monkeypatch):
    config = load(["logger.mode=online"])
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="wandb login"):
        check(config)
    (tmp_path / ".netrc").write_text("machine elsewhere.example login user password x")
    with pytest.raises(ConfigError, match="wandb login"):
        check(config)
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password x")
    check(config)
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    check(config)


def test_the_name_of_a_run_is_that_of_its_file():
    assert conf_name(["seed=1", "conf=a", "conf=conf/headline.yaml"]) == "headline"
    assert conf_name(["seed=1"]) == "default"


def test_dashboards_without_wandb_are_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else object())
    with pytest.raises(ConfigError, match=r"logger\.mode=offline needs W&B, .* logger\.mode=disabled"):
        check(load([]))
    check(load(["logger.mode=disabled"]))


def test_a_conf_of_the_same_name_extends_the_one_that_ships(tmp_path, monkeypatch):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/smoke.yaml").write_text("defaults: smoke\nseed: 9\n")
    monkeypatch.chdir(tmp_path)
    assert load(["conf=smoke"]) == load([f"conf={Path(__file__).resolve().parents[2] / 'conf/smoke.yaml'}", "seed=9"])

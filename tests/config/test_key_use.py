"""Every key of the configuration, and the commands that it changes something in: elsewhere it is refused."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest

from d2rl.benchmark.matrix import BenchmarkConfig, _Reader
from d2rl.commands.make_channel_bank import channels_command
from d2rl.commands.make_pretrained import pretrained_command
from d2rl.commands.train_eval import evaluate_command, train_command
from d2rl.common.errors import CheckpointError, ConfigError
from d2rl.config.defaults import Config
from d2rl.config.key_use import refuse_unused, unused
from d2rl.config.schema import help_text, leaves
from d2rl.deploy.export import export_command
from d2rl.evaluation import evaluate as evaluation
from d2rl.problems.full_duplex import references
from d2rl.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
COMMANDS = ("train", "benchmark", "eval", "export", "channels")

# A new key must be put here: beside the commands that it changes something in. What eval uses, pretrained uses too.
USES = {
    "train benchmark eval export channels": """
        scenario.transmit_antennas scenario.receive_antennas scenario.downlink_users scenario.uplink_users
        scenario.cell_radius scenario.minimum_distance scenario.bandwidth scenario.noise_density
        scenario.noise_figure_downlink scenario.noise_figure_uplink scenario.bs_power scenario.user_power
        scenario.self_interference scenario.self_interference_rician scenario.fixed_drop""",
    "train benchmark eval channels": "scenario.carrier",
    "train benchmark eval export": """
        scenario.path_loss scenario.rician scenario.csi_error scenario.channel_bank scenario.head
        scenario.passes scenario.antenna_power network.kind network.width network.layers network.standardise
        action.explorer action.steps action.sampler action.calm_first action.exchange
        evaluation.seed evaluation.best_of evaluation.ascend evaluation.refine evaluation.noise""",
    "train benchmark eval": """
        scenario.speed scenario.slot scenario.episode_length
        scenario.priority_direction scenario.priority_user scenario.priority_zero
        scenario.objective scenario.minimum_rate scenario.circuit_power
        trainer.accelerator trainer.precision trainer.threads
        evaluation.drops evaluation.priority_spread evaluation.weights""",
    "train eval": "evaluation.slots evaluation.references",
    "train benchmark": """
        problem scenario.feedback scenario.stored_states scenario.loads network.critic
        ddpg.gamma ddpg.steps ddpg.batch ddpg.critic_batch ddpg.replay ddpg.actor_rate ddpg.critic_rate ddpg.target_rate
        ddpg.warmup_updates ddpg.warmup_critic_updates ddpg.noise ddpg.noise_end ddpg.noise_correlation ddpg.rate_end
        ddpg.analytic ddpg.saturation_penalty ddpg.reward_scale
        action.objective action.samples action.gradient_steps action.candidates action.temperature
        action.weighted_scale
        reward.explorer reward.case reward.generated reward.share_reports
        reward.steps reward.rate reward.every reward.updates reward.windows
        reward.samples reward.risk reward.quantile reward.guard
        state.explorer state.steps state.corrupt state.rate state.decay state.width
        state.condition state.every state.measured
        chi.policy chi.eta chi.maximum chi.threshold
        stages.action stages.reward stages.state stages.plateau
        trainer.epochs trainer.updates_per_epoch trainer.updates_per_step trainer.updates_per_slot trainer.num_envs
        trainer.strategy trainer.devices trainer.nodes trainer.cuda_graphs trainer.compile
        trainer.checkpoint_every
        evaluation.every logger.tensorboard""",
    "train": "trainer.progress logger.mode logger.project logger.name logger.level seed run_dir resume initial",
}
USED = {key: commands.split() for commands, keys in USES.items() for key in keys.split()}


def test_every_key_is_classified_once():
    assert sorted(key for keys in USES.values() for key in keys.split()) == sorted(leaves(Config))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_key_is_refused_where_it_changes_nothing_and_nowhere_else(command):
    reader = _Reader(Path("m.yaml"), BenchmarkConfig(), [])
    wrong = []
    for key in leaves(Config):
        try:
            if command == "benchmark":
                reader._overrides("command line", [f"{key}=1"])
            else:
                refuse_unused(command, [f"{key}=1"])
            refused = False
        except ConfigError:
            refused = True
        if refused == (command in USED[key]):
            wrong.append(key)
    assert wrong == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_what_is_not_refused(command):
    text = help_text(Config, lambda key: not unused(key, command))
    listed = [key for key in leaves(Config) if f" {key} " in text]
    assert listed == [key for key in leaves(Config) if not unused(key, command)]


@pytest.mark.parametrize(
    ("command", "arguments", "named"),
    [
        (evaluate_command, ["ckpt=pretrained", "ddpg.noise=0.1"], "ddpg.noise=0.1 changes nothing in the evaluation"),
        (evaluate_command, ["ckpt=pretrained", "run_dir=there"], "run_dir=there changes nothing in the evaluation"),
        (pretrained_command, ["ckpt=pretrained", "out=x", "trainer.epochs=9"], "trainer.epochs=9 changes nothing"),
        (export_command, ["ckpt=pretrained", "out=x.onnx", "drops=9"], "evaluation.drops=9 changes nothing in an exp"),
        (export_command, ["ckpt=pretrained", "out=x.onnx", "trainer.precision=bf16"], "trainer.precision=bf16 changes"),
        (channels_command, ["out=x.pt", "ddpg.noise=0.1"], "ddpg.noise=0.1 changes nothing in a bank"),
        (channels_command, ["out=x.pt", "scenario.csi_error=0.1"], "scenario.csi_error=0.1 changes nothing in a bank"),
    ],
)
def test_a_command_refuses_what_it_would_not_use(command, arguments, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=named) as caught:
        command(arguments)
    assert "leave it out" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ runs


@pytest.fixture(scope="module", autouse=True)
def quick_references():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "LATENCY_SECONDS", 0.0)
        patch.setattr(references, "LIMIT", 5)
        yield


@pytest.fixture(scope="module")
def read() -> dict[str, set[str]]:
    """Keys that were asked for in training and in evaluation, other than to copy, compare or print all of them."""
    return {}


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_arguments, read) -> Path:
    """A run with priorities and a schedule, and what it read."""
    path = tmp_path_factory.mktemp("work") / "run"
    with recorded() as read["train"]:
        asked = ("evaluation.weights=3,1,1,1,1", "evaluation.slots=2", "stages.state=0", "reward.case=designed_gdm")
        train_command([*tiny_arguments, *asked, f"run_dir={path}"])
    return path


class recorded:  # noqa: N801, used as a function
    """Within it, attributes of configurations are noted as they are read."""

    COPYING = ("dataclasses", "copy", "d2rl.config.schema", "d2rl.config.defaults")

    def __enter__(self) -> set[str]:
        self.names: set[str] = set()
        sections = {type(value): f"{key}." for key, value in vars(Config()).items() if is_dataclass(value)}
        self.classes = [*sections, Config]
        for one in self.classes:
            one.__getattribute__ = self._noting("" if one is Config else sections[one])
        return self.names

    def __exit__(self, *_: Any) -> None:
        for one in self.classes:
            del one.__getattribute__

    def _noting(self, prefix: str) -> Any:
        def get(section: Any, name: str) -> Any:
            if sys._getframe(1).f_globals.get("__name__") not in self.COPYING:
                self.names.add(f"{prefix}{name}")
            return object.__getattribute__(section, name)

        return get


def test_a_training_reads_every_key_that_it_accepts(run, read):
    """But those of W&B, which is off here."""
    accepted = {key for key, commands in USED.items() if "train" in commands and not key.startswith("logger.")}
    assert accepted - read["train"] == set()


def test_an_evaluation_reads_every_key_that_it_accepts(run, tmp_path, read):
    with recorded() as read["eval"]:
        evaluate_command([f"ckpt={run}", f"out={tmp_path}", "drops=2"])
    accepted = {key for key, commands in USED.items() if "eval" in commands and key != "trainer.threads"}
    assert accepted - read["eval"] == set()


def test_a_training_evaluates_with_the_priorities_and_the_schedule_asked_for(run, tmp_path):
    report = json.loads((run / "eval.json").read_text())
    assert report["proportional_fair"]["slots"] == 2
    for policy in report["policies"].values():
        assert policy["weighted_sum_rate"] > policy["sum_rate"]
    with open(run / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["eval/sum_rate"]]
    assert all(float(row["eval/weighted_sum_rate"]) > float(row["eval/sum_rate"]) for row in rows)
    evaluate_command([f"ckpt={run / 'checkpoints/last.ckpt'}", f"out={tmp_path}"])
    again = json.loads((tmp_path / "eval.json").read_text())
    assert again["policies"]["d2rl"]["weighted_sum_rate"] == report["policies"]["d2rl"]["weighted_sum_rate"]
    assert "wmmse" in (tmp_path / "report.html").read_text()


def test_a_schedule_on_a_channel_bank_is_refused_before_anything_is_written(tmp_path, tiny_arguments, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"set evaluation.slots=0, or scenario.channel_bank=null"):
        train_command([*tiny_arguments, "scenario.channel_bank=bank.npz", "evaluation.slots=3", "run_dir=run"])
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_refuses_what_is_settled(run):
    for given, before in (("seed=3", "0"), ("stages.state=null", "0"), ("stages.action=null", "0")):
        with pytest.raises(
            CheckpointError, match=rf"cannot go on with {given.replace('null', 'None')}: .* with {before}"
        ):
            train_command([f"resume={run}", given, "trainer.epochs=3"])


def test_a_resumed_run_learns_at_the_rates_that_it_is_given(run, tmp_path):
    """At next to none, all weights stay as they were."""
    rates = [f"{key}=1e-12" for key in ("ddpg.actor_rate", "ddpg.critic_rate", "reward.rate", "state.rate")]
    train_command([f"resume={run}", *rates, "trainer.epochs=3", f"run_dir={tmp_path / 'on'}"])
    before, after = (
        load_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"] for folder in (run, tmp_path / "on")
    )
    learned = [
        name for name in before if name.startswith(("aenpnn.", "critic.", "renpnn.", "senpnn.")) and "weight" in name
    ]
    assert {name.partition(".")[0] for name in learned} == {"aenpnn", "critic", "renpnn", "senpnn"}
    assert all(bool((after[name] - before[name]).abs().max() < 1e-7) for name in learned)

"""A new run that starts from the weights of another one."""

from __future__ import annotations

import csv
import json
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.commands.train_eval import train_command
from d2rl.common.errors import CheckpointError, ConfigError, Interrupted
from d2rl.config.defaults import StagesConfig
from d2rl.runs.run_directory import RunDirectory
from d2rl.training.callbacks import PolicyEvaluation, StagedIntegration
from d2rl.training.checkpoint import load_checkpoint
from d2rl.training.train import start_from, train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
EXPLORERS = ("stages.action=0", "stages.reward=0", "reward.case=designed_gdm", "stages.state=1")
TEXTBOOK = ("stages.action=null", "stages.reward=null", "stages.state=null")


def begin(config, path: Path) -> D2RL:
    run = RunDirectory.create(replace(config, run_dir=str(path)), "test")
    try:
        return train(config, run).agent
    finally:
        run.release()


@pytest.fixture(scope="module")
def before(tiny, tmp_path_factory) -> dict[str, Path]:
    """Runs of the whole D2RL and of textbook DDPG, to start others from."""
    place = tmp_path_factory.mktemp("before")
    for name, given in (("full", EXPLORERS), ("ddpg", TEXTBOOK)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            begin(tiny(*given), place / name)
    return {name: place / name for name in ("full", "ddpg")}


def weights(agent: D2RL, part: str) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in agent.state_dict().items() if name.startswith(part)}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_weights_come_along_and_nothing_else(tiny, before):
    agent = D2RL(tiny(*EXPLORERS, "seed=5"))
    fresh = D2RL(tiny(*EXPLORERS, "seed=5"))
    start_from(agent, str(before["full"]))
    saved = load_checkpoint(before["full"] / "checkpoints/best.ckpt")["state_dict"]
    assert equal(weights(agent, ""), saved)
    assert (agent.updates, agent.environment_steps, agent.chi, len(agent.replay)) == (0, 0, 0.0, 0)
    assert agent.stages == fresh.stages
    assert torch.equal(agent.world.state.channels.downlink, fresh.world.state.channels.downlink)


def test_the_first_evaluation_is_before_the_first_update_and_takes_no_time(tiny, before, tmp_path):
    begin(tiny(*EXPLORERS, f"initial={before['full']}"), tmp_path / "same")
    first = rows(tmp_path / "same")[0]
    assert (float(first["charts/updates"]), float(first["time/total"])) == (0, 0)
    best = max(float(row["eval/sum_rate"]) for row in rows(before["full"]) if row["eval/sum_rate"])
    assert float(first["eval/sum_rate"]) == pytest.approx(best, rel=1e-6)
    begin(tiny(*EXPLORERS), tmp_path / "drawn")
    assert min(float(row["charts/updates"]) for row in rows(tmp_path / "drawn") if row["eval/sum_rate"]) > 0


def test_a_level_that_the_policy_brings_is_reached_at_time_0(tiny, before, tmp_path, monkeypatch):
    monkeypatch.setattr("d2rl.training.callbacks.gpu_time.THRESHOLDS", ("-9.0",))
    begin(tiny(*EXPLORERS, f"initial={before['full']}"), tmp_path / "run")
    assert json.loads((tmp_path / "run/timing.json").read_text())["time_to_gap"] == {"-9.0": 0.0}


def test_stages_that_the_checkpoint_had_begun_begin_with_the_run(tiny, fit, before):
    given = (*EXPLORERS[2:3], "stages.action=1", "stages.reward=1", "stages.state=1")
    agent = D2RL(tiny(*given, f"initial={before['full']}"))
    start_from(agent, agent.config.initial)
    brought, seen = weights(agent, "aenpnn."), []

    class Witness(StagedIntegration):
        def on_train_epoch_start(self, trainer, agent):
            super().on_train_epoch_start(trainer, agent)
            seen.append((dict(agent.stages), equal(weights(agent, "aenpnn."), brought)))

    fit(agent, Witness(StagesConfig(action=1, reward=1, state=1)))
    assert seen == [({"action": True, "reward": True, "state": True}, True)]


def test_the_state_stage_of_another_cell_waits_for_its_epoch_since_its_explorer_is_new(tiny, before):
    for change, begun in (("scenario.cell_radius=300", True), ("scenario.uplink_users=3", False)):
        agent = D2RL(tiny(*EXPLORERS, f"initial={before['full']}", change))
        start_from(agent, agent.config.initial)
        assert agent.initial_stages == {"action": True, "reward": True, "state": begun}


def test_weights_of_another_place_work_and_the_change_is_told(tiny, tmp_path, caplog):
    here = tiny(*TEXTBOOK, "scenario.fixed_drop=1")
    begin(here, tmp_path / "here")
    start_from(D2RL(here), str(tmp_path / "here"))
    assert "place has changed" not in caplog.text
    agent = D2RL(tiny(*TEXTBOOK, "scenario.fixed_drop=2"))
    start_from(agent, str(tmp_path / "here"))
    assert "made with scenario.fixed_drop=1, and here users stay in those of 2: the place has changed" in caplog.text
    saved = load_checkpoint(tmp_path / "here/checkpoints/best.ckpt")["state_dict"]
    assert equal(weights(agent, ""), saved)


def test_an_action_explorer_that_has_not_learned_takes_the_encoder_of_the_actor_that_has(tiny, before):
    agent = D2RL(tiny(*EXPLORERS, f"initial={before['ddpg']}"))
    start_from(agent, agent.config.initial)
    agent.begin_stage("action")
    assert equal(agent.aenpnn.encoder.state_dict(), agent.actor.encoder.state_dict())


def test_the_first_rewards_change_no_more_than_the_constant_of_what_was_learned(tiny, fit, before):
    agent = D2RL(tiny(*EXPLORERS, f"initial={before['full']}", "scenario.cell_radius=300"))
    start_from(agent, agent.config.initial)
    agent.begin_stage("reward")
    agent.on_fit_start()
    agent.interact()
    brought = weights(agent, "")
    agent.calibrate(agent.draw(agent.config.ddpg.critic_batch))
    changed = {name for name, value in weights(agent, "").items() if not torch.equal(value, brought[name])}
    assert changed == {"critic.out.bias"}


def test_a_reward_explorer_of_another_case_learns_in_its_own_unit(tiny, before):
    agent = D2RL(tiny("stages.action=0", "stages.reward=0", "reward.case=raw_gdm", f"initial={before['full']}"))
    start_from(agent, agent.config.initial)
    agent.on_fit_start()
    agent.interact()
    spread = agent.renpnn.spread.clone()
    agent.calibrate(agent.draw(agent.config.ddpg.critic_batch))
    assert agent.renpnn.spread != spread


@pytest.mark.slow
def test_a_run_that_started_so_is_resumed_without_the_file(tiny, before, tmp_path):
    folder = tmp_path / "initial"
    folder.mkdir()
    file = folder / "a.ckpt"
    file.write_bytes((before["full"] / "checkpoints/last.ckpt").read_bytes())
    run = tmp_path / "run"
    begin(tiny(*EXPLORERS, f"initial={file}"), run)
    file.unlink()
    train_command([f"resume={run}", "trainer.epochs=3"])
    assert rows(run)[-1]["charts/updates"] == "12.0"
    assert [row["charts/updates"] for row in rows(run)].count("0.0") == 1


@pytest.mark.slow
def test_a_run_that_is_ended_during_its_first_evaluation_goes_on_as_if_it_had_not_been(
    tiny, before, tmp_path, monkeypatch
):
    given = (*EXPLORERS, f"initial={before['full']}", "scenario.cell_radius=300")
    whole = begin(tiny(*given), tmp_path / "whole")
    evaluated = PolicyEvaluation._evaluated

    def asked_to_end(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return evaluated(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PolicyEvaluation, "_evaluated", asked_to_end)
        with pytest.raises(Interrupted, match="saved at update 0"):
            begin(tiny(*given), tmp_path / "run")
    train_command([f"resume={tmp_path / 'run'}"])
    gone_on = load_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["state_dict"]
    assert equal(gone_on, weights(whole, ""))
    assert [row["eval/sum_rate"] for row in rows(tmp_path / "run")] == [
        row["eval/sum_rate"] for row in rows(tmp_path / "whole")
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["network.width=9"], "its weights were made with network.width=8 and cannot start a run with 9"),
        (["action.steps=4"], "set action.steps=3"),
        (["scenario.head=beamforming"], "scenario.head=structured"),
        (["stages.action=null"], "holds a policy of AENPNN, which stages.action=null leaves out"),
    ],
)
def test_weights_that_do_not_serve_the_new_run_are_refused_before_anything_is_written(
    tiny_arguments, before, tmp_path, change, message
):
    given = [*tiny_arguments, *EXPLORERS, f"initial={before['full']}", f"run_dir={tmp_path / 'run'}", *change]
    with pytest.raises(CheckpointError, match=message):
        train_command(given)
    assert not (tmp_path / "run").exists()


def test_a_start_that_is_not_there_is_named(tiny_arguments, tmp_path):
    with pytest.raises(CheckpointError, match=r"initial=nowhere: .*nowhere"):
        train_command([*tiny_arguments, "initial=nowhere", f"run_dir={tmp_path / 'run'}"])


def test_a_run_cannot_go_on_and_start_anew_at_once(before):
    with pytest.raises(ConfigError, match=r"resume=.* goes on with a run and initial=.* starts a new one"):
        train_command([f"resume={before['full']}", f"initial={before['full']}"])

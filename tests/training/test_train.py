"""Whole runs: the same again, going on after an interruption, and what a run leaves."""

from __future__ import annotations

import csv
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.decisions import DecisionRule
from d2rl.deploy.pretrained import load_policy
from d2rl.evaluation.evaluate import Evaluation, policy_of
from d2rl.problems import make_problems
from d2rl.problems.full_duplex import references
from d2rl.runs.run_directory import RunDirectory
from d2rl.training.checkpoint import config_of, load_checkpoint
from d2rl.training.train import train

EVERYTHING = (
    *("trainer.epochs=4", "ddpg.replay=40", "ddpg.gamma=0.5", "action.objective=mixed", "reward.case=designed_gdm"),
    *("stages.action=0", "stages.reward=1", "stages.state=2", "chi.threshold=9"),
    *("scenario.csi_error=0.1", "scenario.episode_length=3", "scenario.priority_user=0.3", "reward.guard=-0.5"),
)
CLOCK = ("seconds", "epochs", "time_to_gap")  # what GpuTimeProfiler remembers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def start(config, path: Path, checkpoint: Path | None = None):
    run = RunDirectory.create(
        replace(config, run_dir=str(path), resume=str(checkpoint) if checkpoint else None), "test"
    )
    try:
        return train(config, run, str(checkpoint) if checkpoint else None)
    finally:
        run.release()


def rows(path: Path) -> list[dict[str, str]]:
    """metrics.csv without times and without empty cells."""
    with open(path / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if v and not k.startswith("time/")} for row in csv.DictReader(file)]


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """Paths at which two nested containers differ in a bit."""
    if isinstance(first, dict) and isinstance(second, dict):
        found = [f"{where}: keys {set(first) ^ set(second)}"] if set(first) != set(second) else []
        return found + [
            d for key in first if key in second for d in differences(first[key], second[key], f"{where}/{key}")
        ]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        return [
            d for n, (a, b) in enumerate(zip(first, second, strict=True)) for d in differences(a, b, f"{where}/{n}")
        ]
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return [] if torch.equal(first, second) else [where]
    return [] if first == second else [where]


def contents(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, without times and places."""
    content = load_checkpoint(path)
    callbacks = {
        key: {k: v for k, v in state.items() if k not in CLOCK}
        for key, state in content["callbacks"].items()
        if not key.startswith("KeptCheckpoint")
    }
    kept = {key: content[key] for key in ("state_dict", "optimizer_states", "epoch", "global_step", "d2rl")}
    kept["d2rl"] = {k: v for k, v in kept["d2rl"].items() if k != "config"}
    return {**kept, "callbacks": callbacks}


@pytest.fixture(scope="module", autouse=True)
def quick_references():
    """How well WMMSE does is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(references, "LIMIT", 10)
        yield


@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory):
    """A run of four epochs in which every stage begins."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = tmp_path_factory.mktemp("runs") / "whole"
        return start(tiny(*EVERYTHING), path)


def interrupted(monkeypatch, config, path: Path, update: int, checkpoint: Path | None = None) -> None:
    """A run whose person presses Ctrl-C in the middle of an update."""
    with monkeypatch.context() as patch:
        learn = D2RL.learn

        def pressed(agent: D2RL) -> None:
            if agent.updates == update:
                raise KeyboardInterrupt
            learn(agent)

        patch.setattr(D2RL, "learn", pressed)
        with pytest.raises(KeyboardInterrupt):
            start(config, path, checkpoint)


@pytest.mark.parametrize("update", [9, pytest.param(15, marks=pytest.mark.slow)])
def test_a_resumed_run_equals_an_uninterrupted_one(tiny, uninterrupted, tmp_path, monkeypatch, update):
    """Every bit: weights, optimizers, world, replay, generators, callbacks, metrics."""
    path, config = tmp_path / "run", tiny(*EVERYTHING)
    interrupted(monkeypatch, config, path, update)
    assert load_checkpoint(path / "checkpoints/last.ckpt")["d2rl"]["updates"] == update // 4 * 4
    written = rows(path)
    assert written == rows(uninterrupted.run.path)[: len(written)]
    resumed = start(config, path, path / "checkpoints/last.ckpt")
    assert differences(contents(path / "checkpoints/last.ckpt"), contents(uninterrupted.run.last)) == []
    assert rows(path) == rows(uninterrupted.run.path)
    assert resumed.profiler.updates == 16
    assert len(resumed.profiler.epochs) == 4
    assert sum(resumed.profiler.epochs) == pytest.approx(resumed.profiler.total)
    best = load_checkpoint(path / "checkpoints/best.ckpt"), load_checkpoint(uninterrupted.run.best)
    assert differences(best[0]["state_dict"], best[1]["state_dict"]) == []


@pytest.mark.parametrize(("first", "then"), [("null", "2"), ("0", "null")])
def test_a_run_goes_on_with_a_state_stage_that_it_did_not_plan_or_no_longer_plans(tiny, tmp_path, first, then):
    path = tmp_path / "run"
    start(tiny("trainer.epochs=1", f"stages.state={first}"), path)
    resumed = start(tiny("trainer.epochs=3", f"stages.state={then}"), path, path / "checkpoints/last.ckpt")
    assert resumed.agent.updates == 3 * resumed.agent.config.trainer.updates_per_epoch
    assert resumed.agent.stages["state"] == (then != "null")
    assert (resumed.agent.senpnn is None) == (then == "null")


@pytest.mark.slow
def test_a_run_over_several_loads_goes_on_in_every_world(tiny, tmp_path):
    """From each of its checkpoints, which were written with another world next."""
    config = tiny(*EVERYTHING, "scenario.loads=2+2,5+4", "scenario.head=switching")
    whole = start(config, tmp_path / "whole")
    assert len(load_checkpoint(whole.run.last)["d2rl"]["ranks"][0]["worlds"]) == 3
    for stage, updates in (("reward", 4), ("state", 8)):
        begun = whole.run.checkpoints / f"stage-{stage}.ckpt"
        assert load_checkpoint(begun)["d2rl"]["updates"] == updates
        start(config, tmp_path / stage, begun)
        assert differences(contents(tmp_path / stage / "checkpoints/last.ckpt"), contents(whole.run.last)) == []


@pytest.mark.parametrize("stage", ["reward", pytest.param("state", marks=pytest.mark.slow)])
def test_a_run_can_be_resumed_where_a_stage_began(tiny, uninterrupted, tmp_path, stage):
    """Into a directory of its own, the first one being left as it is."""
    before = sorted((p.name, p.stat().st_mtime_ns) for p in uninterrupted.run.checkpoints.iterdir())
    begun = uninterrupted.run.checkpoints / f"stage-{stage}.ckpt"
    start(tiny(*EVERYTHING), tmp_path / "branch", begun)
    assert differences(contents(tmp_path / "branch/checkpoints/last.ckpt"), contents(uninterrupted.run.last)) == []
    later = [
        row for row in rows(uninterrupted.run.path) if int(row["environment_steps"]) > (32 if stage == "reward" else 64)
    ]
    assert rows(tmp_path / "branch")[-len(later) :] == later
    assert before == sorted((p.name, p.stat().st_mtime_ns) for p in uninterrupted.run.checkpoints.iterdir())


@pytest.mark.slow
def test_a_run_can_be_resumed_where_the_policy_levelled_off(tiny, tmp_path):
    """In the middle of an epoch, and at the end of one."""
    config = tiny(
        *("trainer.epochs=3", "trainer.updates_per_epoch=6", "stages.action=9", "stages.reward=9", "stages.state=9"),
        *("stages.plateau=2", "ddpg.warmup_updates=99"),  # a policy that does not learn levels off at once
    )
    whole = start(config, tmp_path / "whole")
    begun = {path: load_checkpoint(path)["d2rl"]["updates"] for path in whole.run.checkpoints.glob("stage-*.ckpt")}
    chosen = {updates % 6 == 0: path for path, updates in begun.items()}
    assert set(chosen) == {True, False}
    for path in chosen.values():
        start(config, tmp_path / path.stem, path)
        found = contents(tmp_path / path.stem / "checkpoints/last.ckpt")
        assert differences(found, contents(whole.run.last)) == [], begun[path]
        later = [row for row in rows(whole.run.path) if int(row["environment_steps"]) > 8 * begun[path]]
        assert rows(tmp_path / path.stem)[-len(later) :] == later


def test_the_run_under_test_does_everything(uninterrupted):
    """So that the equalities above are about something."""
    agent, last = uninterrupted.agent, rows(uninterrupted.run.path)[-1]
    assert agent.stages == {"action": True, "reward": True, "state": True}
    assert agent.chi > 0
    assert agent.replay.filled == 40 < agent.environment_steps  # the ring has gone round
    assert not agent.fallback
    assert {"charts/chi", "senpnn/held_out_loss", "renpnn/goodhart_gap", "losses/aenpnn_chain"} < {
        key for row in rows(uninterrupted.run.path) for key in row
    }
    assert (last["environment_steps"], last["charts/updates"]) == ("128", "16.0")


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tiny, tmp_path):
    short = ("trainer.epochs=1", "stages.state=0")
    torch.rand(3)
    first = start(tiny(*short), tmp_path / "a")
    torch.rand(5)
    second = start(tiny(*short), tmp_path / "b")
    other = start(tiny(*short, "seed=1"), tmp_path / "c")
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert differences(first.agent.state_dict(), second.agent.state_dict()) == []
    assert differences(first.agent.actor.state_dict(), other.agent.actor.state_dict()) != []
    assert first.evaluation.policies["wmmse"] == other.evaluation.policies["wmmse"]  # the drops are frozen


def test_a_run_leaves_its_files(uninterrupted):
    run = uninterrupted.run
    assert {path.name for path in run.path.iterdir()} >= {"config.yaml", "metrics.csv", "timing.json", "checkpoints"}
    assert {path.name for path in run.checkpoints.iterdir()} == {
        *("last.ckpt", "best.ckpt", "stage-reward.ckpt", "stage-state.ckpt")
    }
    assert json.loads(run.timing.read_text())["updates"] == 16


def test_the_last_checkpoint_is_the_last_even_when_the_policy_got_worse(uninterrupted):
    rates = [float(row["eval/weighted_sum_rate"]) for row in rows(uninterrupted.run.path) if "eval/sum_rate" in row]
    by_epoch = rates[1::2]
    best = load_checkpoint(uninterrupted.run.best)
    assert load_checkpoint(uninterrupted.run.last)["d2rl"]["updates"] == 16
    assert best["d2rl"]["updates"] == 4 * (1 + by_epoch.index(max(by_epoch)))


@pytest.mark.parametrize(("epochs", "every"), [(1, 5), (3, 2)])
def test_a_run_always_leaves_its_last_and_a_best_checkpoint(tiny, tmp_path, epochs, every):
    plan = ("trainer.updates_per_epoch=2", f"trainer.epochs={epochs}", f"trainer.checkpoint_every={every}")
    result = start(tiny(*plan), tmp_path / "run")
    last = load_checkpoint(result.run.last)
    assert last["d2rl"]["updates"] == 2 * epochs
    assert differences(last["state_dict"], dict(result.agent.state_dict())) == []
    assert load_checkpoint(result.run.best)["d2rl"]["updates"] == min(every, epochs) * 2


def test_evaluations_that_are_too_rare_are_no_obstacle(tiny, tmp_path):
    result = start(tiny("trainer.epochs=1", "evaluation.every=100"), tmp_path / "run")
    assert load_checkpoint(result.run.last)["d2rl"]["updates"] == 4
    assert not result.run.best.exists()


def test_a_finished_run_that_is_resumed_keeps_its_report(tiny, uninterrupted, tmp_path):
    again = start(tiny(*EVERYTHING), tmp_path / "again", uninterrupted.run.last)
    before, after = uninterrupted.profiler.report(), json.loads((tmp_path / "again/timing.json").read_text())
    assert after["updates"] == before["updates"] == 16
    assert after["seconds"] == before["seconds"]
    assert differences(dict(again.agent.state_dict()), dict(uninterrupted.agent.state_dict())) == []


def noises(path: Path) -> list[float]:
    return [float(row["charts/exploration_noise"]) for row in rows(path) if "charts/exploration_noise" in row]


def test_a_finished_run_made_longer_keeps_noise_and_rates_at_their_ends(tiny, tmp_path, caplog):
    first = start(tiny(), tmp_path / "run")
    with caplog.at_level("INFO", "d2rl"):
        second = start(tiny("trainer.epochs=4"), tmp_path / "run", first.run.last)
    assert "the run is planned for 16 updates instead of 8" in caplog.text
    assert noises(tmp_path / "run") == pytest.approx([0.475, 0.35, 0.225, 0.1, 0.1, 0.1, 0.1, 0.1])
    actor, critic, *_ = load_checkpoint(second.run.last)["optimizer_states"]
    rates = [optimizer["param_groups"][0]["lr"] for optimizer in (actor, critic)]
    assert rates == pytest.approx([8e-4, 1e-3])


def test_a_run_whose_length_is_changed_spreads_what_is_left_over_what_is_left(tiny, tmp_path, monkeypatch):
    path, last = tmp_path / "run", tmp_path / "run/checkpoints/last.ckpt"
    interrupted(monkeypatch, tiny("trainer.epochs=4"), path, 9)
    assert noises(path)[-1] == pytest.approx(0.35)  # half of the way from 0.6 to 0.1
    interrupted(monkeypatch, tiny("trainer.epochs=6"), path, 17, last)
    start(tiny("trainer.epochs=6"), path, last)
    assert noises(path)[4:] == pytest.approx([0.35 - 0.25 * step / 8 for step in range(1, 9)])


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_checkpoint_is_worth_what_the_last_evaluation_said(tiny, tmp_path, precision):
    result = start(
        tiny("trainer.epochs=1", "ddpg.warmup_updates=0", f"trainer.precision={precision}"), tmp_path / "run"
    )
    config = config_of(load_checkpoint(result.run.last))
    drops = Evaluation(make_problems(config)[0], config.evaluation.drops, config.evaluation.seed)
    found = drops.score("d2rl", policy_of(load_policy(result.run.last)[0], DecisionRule()))
    assert str(found["sum_rate"]) == rows(result.run.path)[-1]["eval/sum_rate"]

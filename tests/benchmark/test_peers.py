"""Other libraries' learners: the same world, the clock, and the files of a benchmark."""

from __future__ import annotations

import csv
import json
import math
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from d2rl.benchmark.levels import levels_table, time_to_levels
from d2rl.benchmark.peer_config import PeersConfig
from d2rl.benchmark.peers import peer_matrix, peers_command
from d2rl.benchmark.results import Result
from d2rl.common.errors import ConfigError, InputError
from d2rl.config.load import load
from d2rl.problems.full_duplex.problem import FullDuplexProblem
from d2rl.report.learning_curve import read_metrics

NEEDS = "stable-baselines3 (extra peers)"
SMALL = (
    *("scenario.downlink_users=3", "scenario.uplink_users=2"),
    *("scenario.transmit_antennas=4", "scenario.receive_antennas=4"),
    *(
        f"{name}.{key}"
        for name in ("ddpg", "td3", "sac")
        for key in ("num_envs=8", "width=16", "warmup=16", "gradient_steps=2")
    ),
    *("drops=8", "every=0.05", "seconds=0.2", "seed=100"),
)


@pytest.fixture(scope="module")
def ticks():
    """A clock that goes on by 10 ms at each look, whatever the machine; three looks are a step of training."""
    learners = pytest.importorskip("d2rl.benchmark.stable_baselines", reason=NEEDS)
    with pytest.MonkeyPatch.context() as patch:
        looks = count()
        patch.setattr(learners, "time", SimpleNamespace(process_time=lambda: next(looks) / 100))
        yield looks


# ------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def finished(ticks, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("peers")
    peers_command([*SMALL, "seeds=1", f"out={out}"])
    return out


def test_every_peer_and_seed_leaves_what_a_benchmark_leaves(finished):
    with open(finished / "cells.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["seed"]) for row in rows] == [("ddpg", "100"), ("td3", "100"), ("sac", "100")]
    for row in rows:
        assert float(row["latency_ms"]) > 0
        assert float(row["total_seconds"]) == pytest.approx(0.2, abs=0.05)
        assert int(row["updates"]) > 5
        assert float(row["sum_rate"]) / float(row["wmmse_ratio"]) == pytest.approx(
            float(rows[0]["sum_rate"]) / float(rows[0]["wmmse_ratio"])
        )  # one reference: the same drops for all
    summary = json.loads((finished / "summary.json").read_text())
    assert set(summary["variants"]) == {"ddpg", "td3", "sac"}
    assert "SB3 SAC" in (finished / "report.md").read_text()
    assert (finished / "curves.png").stat().st_size > 1000


def test_thresholds_are_passed_where_the_curve_passes_them(finished):
    for folder in (finished / "cells").iterdir():
        curve = read_metrics(folder / "metrics.csv", "time/total", "eval/gap_closed")
        seconds = [point[0] for point in curve]
        assert seconds == sorted(seconds)
        assert len(curve) >= 3
        timing = json.loads((folder / "timing.json").read_text())
        for threshold, reached in timing["time_to_gap"].items():
            passed = [at for at, gap in curve if gap >= float(threshold)]
            assert reached == (pytest.approx(passed[0]) if passed else None)
        final = json.loads((folder / "eval.json").read_text())["policies"]
        own = next(one for name, one in final.items() if name.startswith("SB3"))
        assert own["gap_closed"] == pytest.approx(curve[-1][1], abs=1e-5)


def test_what_is_finished_is_not_run_again_unless_it_changes(finished):
    marks = {path: path.stat().st_mtime_ns for path in finished.glob("cells/*/timing.json")}
    peers_command([*SMALL, "seeds=2", "algorithms=ddpg,sac", f"out={finished}", "sac.batch=32"])
    again = {path.parent.name: path.stat().st_mtime_ns != mark for path, mark in marks.items()}
    assert again == {"ddpg-default-100": False, "td3-default-100": False, "sac-default-100": True}
    assert (finished / "cells/ddpg-default-101/done.json").exists()


@pytest.mark.slow
def test_a_peer_learns_until_its_time_is_over(ticks):
    from d2rl.benchmark.stable_baselines import train_peer
    from d2rl.evaluation.evaluate import Evaluation

    config = load([*SMALL, "sac.width=64", "sac.gradient_steps=8"], PeersConfig)
    evaluation = Evaluation(FullDuplexProblem(config.scenario), 32, seed=100)
    result = train_peer("sac", config.sac, config.scenario, evaluation, seed=100, seconds=0.8, every=0.1)
    assert result.curve[-1].metrics["gap_closed"] > result.curve[0].metrics["gap_closed"] + 0.02
    assert sum(result.seconds.values()) == pytest.approx(result.curve[-1].seconds)


@pytest.mark.parametrize("normalized", [False, True])
def test_decisions_are_those_of_the_library(normalized):
    pytest.importorskip("stable_baselines3", reason=NEEDS)
    from stable_baselines3 import SAC
    from stable_baselines3.common.vec_env import VecNormalize

    from d2rl.benchmark.stable_baselines import decisions
    from d2rl.problems.full_duplex.gymnasium_env import flat_features
    from d2rl.problems.full_duplex.stable_baselines import CellVecEnv
    from d2rl.wireless import StructuredHead

    cells = CellVecEnv(32, downlink_users=3, uplink_users=2)
    env = VecNormalize(cells, norm_reward=False) if normalized else cells
    model = SAC("MlpPolicy", env, learning_starts=32, gamma=0.0, seed=0).learn(200)
    env.seed(3)
    action, _ = model.predict(env.reset(), deterministic=True)
    state = cells.env.cells.state
    expected = StructuredHead().decode(state.estimate, torch.tensor(action))
    policy = decisions(model, flat_features, lambda state, action: StructuredHead().decode(state.estimate, action))
    for ours, theirs in zip(policy(state), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("algorithm", ["ddpg", "sac"])
def test_the_saturation_penalty_adds_its_own_gradient_and_changes_no_output(algorithm):
    pytest.importorskip("stable_baselines3", reason=NEEDS)
    from d2rl.benchmark.stable_baselines import CLASSES, penalise_saturation
    from d2rl.problems.full_duplex.stable_baselines import CellVecEnv

    actor = CLASSES[algorithm]("MlpPolicy", CellVecEnv(2, downlink_users=2, uplink_users=2), seed=0).actor
    observation = torch.rand(5, 4 * 7 + 16 * 4, generator=torch.Generator().manual_seed(0))
    before_tanh = actor.mu[:-1] if algorithm == "ddpg" else torch.nn.Sequential(actor.latent_pi, actor.mu)
    weights = list(before_tanh.parameters())
    output = before_tanh(observation)
    expected = torch.autograd.grad(output.tanh().sum() + 0.3 * output.square().mean(), weights)
    penalise_saturation(actor, 0.3)
    again = before_tanh(observation)
    assert torch.equal(again, output)
    for found, wanted in zip(torch.autograd.grad(again.tanh().sum(), weights), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_evaluation_is_not_counted(ticks):
    from stable_baselines3 import SAC

    from d2rl.benchmark.stable_baselines import Clock
    from d2rl.problems.full_duplex.stable_baselines import CellVecEnv

    def busy() -> dict[str, float]:
        for _ in range(20):
            next(ticks)
        return {"gap_closed": 0.75}

    clock = Clock(busy, seconds=0.2, every=0.1)
    env = CellVecEnv(8, downlink_users=2, uplink_users=2)
    SAC("MlpPolicy", env, learning_starts=10**9, buffer_size=1000, seed=0).learn(10**9, clock, log_interval=None)
    assert clock.spent == pytest.approx(0.2, abs=0.05)
    assert [point.seconds for point in clock.curve] == pytest.approx([0.1, 0.2], abs=0.05)
    assert clock.time_to_gap == {"0.70": clock.curve[0].seconds, "0.80": None, "0.90": None}


# ------------------------------------------------------------------ mistakes


def test_an_unknown_algorithm_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'sacc'.*Did you mean sac"):
        peer_matrix(load(["algorithms=ddpg,sacc"], PeersConfig))


def test_an_entropy_coefficient_is_a_number_or_learnt():
    for good in ("auto", "auto_0.01", "0.03", "1e-2"):
        peer_matrix(load([f"sac.entropy={good}"], PeersConfig))
    for bad in ("automatic", "auto_", "-1", "nan"):
        with pytest.raises(ConfigError, match=r"sac\.entropy"):
            peer_matrix(load([f"sac.entropy={bad}"], PeersConfig))


def test_a_missing_library_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    for name in [one for one in sys.modules if one.startswith(("d2rl.benchmark.stable", "d2rl.envs.stable"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("d2rl.benchmark.stable_baselines", raising=False)
    with pytest.raises(ConfigError, match=r"d2rl\[peers\]"):
        peers_command([f"out={tmp_path}"])


def test_settings_of_one_peer_leave_the_others_finished():
    before, after = (
        {cell.name: cell.fingerprint for cell in peer_matrix(load(arguments, PeersConfig)).cells}
        for arguments in ([], ["td3.learning_rate=1e-4"])
    )
    assert {name for name in before if before[name] != after[name]} == {
        "td3-default-0",
        "td3-default-1",
        "td3-default-2",
    }
    assert len(set(before.values())) == 9


# ------------------------------------------------------------------ time to a peer's best level


def write_curve(folder: Path, *points: tuple[float, float]) -> Path:
    folder.mkdir(parents=True)
    lines = ["step,time/total,eval/gap_closed", *(f"{n},{s},{g}" for n, (s, g) in enumerate(points))]
    (folder / "metrics.csv").write_text("\n".join(lines))
    return folder


def result(folder: Path, variant: str, seed: int) -> Result:
    empty = dict.fromkeys(("sum_rate", "wmmse_ratio", "gap_closed", "total_seconds", "seconds_per_update"), 1.0)
    return Result(
        variant, "default", seed, best_of_16=None, seconds_per_epoch=1.0, epochs=1, updates=1, time_to_gap={},
        seconds={}, device="", torch="", policies={}, folder=folder, **empty,
    )  # fmt: skip


def test_time_to_the_best_level_is_read_off_the_curves(tmp_path):
    peers = [
        result(write_curve(tmp_path / "a", (1, 0.5), (2, 0.9), (3, 0.8)), "sac", 0),
        result(write_curve(tmp_path / "b", (1, 0.5), (2, 0.6), (6, 0.9)), "sac", 1),
    ]
    write_curve(tmp_path / "bench/cells/d2rl-default-0", (0.1, 0.5), (0.2, 0.95))
    write_curve(tmp_path / "bench/cells/d2rl-default-1", (0.1, 0.5), (0.4, 0.91))
    write_curve(tmp_path / "bench/cells/slow-default-0", (0.1, 0.5), (9, 0.89))
    rows = ["variant,scenario,seed,status", "d2rl,default,0,done", "d2rl,default,1,done", "slow,default,0,done"]
    (tmp_path / "bench/cells.csv").write_text("\n".join(rows))
    level = time_to_levels(peers, str(tmp_path / "bench"))["sac"]
    assert level["gap_closed"] == pytest.approx(0.9)
    assert level["own"]["value"] == pytest.approx(4)
    assert level["others"]["d2rl"]["value"] == pytest.approx(0.3)
    assert level["others"]["d2rl"]["ratio"]["value"] == pytest.approx(0.075)
    assert level["others"]["slow"]["value"] is None
    assert (level["others"]["slow"]["reached"], level["others"]["slow"]["of"]) == (0, 1)
    table = levels_table({"sac": level}, {"sac": "SB3 SAC"})
    assert "| SB3 SAC | 0.900 | d2rl | 0.3" in table
    assert not math.isnan(level["own"]["value"])


def test_a_folder_without_a_benchmark_is_refused(tmp_path):
    peers = [result(write_curve(tmp_path / "a", (1, 0.5)), "sac", 0)]
    with pytest.raises(InputError, match="beside="):
        time_to_levels(peers, str(tmp_path))

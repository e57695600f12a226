"""The guard against reward hacking: trips when generated rewards mislead, and lets go when they no longer do."""

from __future__ import annotations

import csv
from copy import deepcopy

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.diagnostics import goodhart_gap
from d2rl.algorithm.explorers.reward import rank_correlation
from d2rl.algorithm.rewards import to_scalar
from d2rl.problems.full_duplex.simulator import decided_rates
from d2rl.runs.tracking import CsvLogger
from d2rl.training.callbacks import RewardGuard


def build(tiny, *overrides: str) -> D2RL:
    L.seed_everything(0, verbose=False)
    agent = D2RL(tiny("reward.case=designed_gdm", *overrides))
    agent.stages["reward"] = True
    return agent


@pytest.fixture(scope="module")
def trained(tiny, fit) -> D2RL:
    """An agent whose reward explorer has learned to rank actions; the policy is left as it was."""
    agent = build(
        tiny,
        *("network.width=16", "ddpg.batch=16", "ddpg.replay=2048", "trainer.num_envs=16", "reward.rate=0.01"),
        *("ddpg.noise=0.5", "ddpg.noise_end=0.5", "action.candidates=4", "ddpg.warmup_updates=1000"),
        *("trainer.updates_per_epoch=120", "trainer.updates_per_step=2"),
    )
    fit(agent)
    agent.means.collect()
    return agent


def test_the_guard_trips_on_rewards_of_the_wrong_sign_and_recovers(trained, fit, caplog):
    agent, guard, seen = deepcopy(trained), RewardGuard(0.5, every=10**6), []

    def follow(trainer, agent):
        agent.means.collect()
        seen.append(agent.fallback)
        tripped = agent.fallback and not any(seen[:-1])
        if len(seen) == 5 or tripped:
            agent.renpnn.spread.neg_()  # generated rewards change sign, and change back
        trainer.should_stop = any(seen) and not agent.fallback

    fit(agent, guard, follow)
    assert not any(seen[:5])
    assert any(seen)
    assert not seen[-1]
    assert guard.trips == 1
    said = [one.getMessage() for one in caplog.records if one.getMessage().startswith("reward guard: ")]
    trusted, tripped = "learning returns to generated rewards", "learning falls back to measured rewards"
    assert [one.partition("floor 0.50; ")[2] for one in said] == [trusted, tripped, trusted]


def test_generated_rewards_are_not_used_before_they_are_judged(tiny, fit):
    """Not even stored, since they would be learned from later."""
    agent, guard, before = build(tiny, "stages.action=null"), RewardGuard(0.99), []

    class First(Callback):
        def on_train_batch_start(self, trainer, agent, batch, batch_index):
            before.append((agent.fallback, guard.correlation))

    fit(agent, guard, First())
    assert before[0] == (True, None)
    ring = agent.replay
    stored = ring.form.with_tensors({name: tensor[: len(ring)] for name, tensor in ring.storage.items()})
    torch.testing.assert_close(stored.generated, agent.case_reward(stored.utility, stored.observation))


def test_the_goodhart_gap_tells_honest_rewards_from_hacked_ones(trained):
    """Following the generated reward raises the measured one; following its negative lowers it."""
    agent, gaps = deepcopy(trained), []
    for _ in range(2):
        gaps.append(sum(goodhart_gap(agent).item() for _ in range(4)) / 4)
        agent.renpnn.spread.neg_()
    assert gaps[0] > 0.05
    assert gaps[1] < -0.05


def feed(agent: D2RL, sign: float) -> None:
    """Rank correlation of rewards of the right or the wrong sign with the measured ones."""
    state = agent.world.state
    action = torch.rand(8, 4, 10, generator=torch.Generator().manual_seed(0)) * 2 - 1
    measured = to_scalar(decided_rates(agent.problem.head, state.channels, action), state.weights)
    agent.means.collect()
    agent.means.add("renpnn/rank_correlation", rank_correlation(sign * measured, measured))


def test_one_bad_step_does_not_trip_it(tiny, fit, tmp_path, caplog):
    """The correlation is smoothed: 0.9 of the old value and 0.1 of the new one."""
    guard, seen, logger = RewardGuard(0.5, every=10**6), [], CsvLogger(tmp_path / "metrics.csv")

    def judge(trainer, agent):
        if seen:
            return
        for number, sign in enumerate([1, 1, -1, 1, -1, -1, -1], start=1):
            feed(agent, sign)
            guard.on_train_batch_end(trainer, agent, None, None, number)
            seen.append((guard.correlation, agent.fallback))

    fit(build(tiny), judge, logger=logger)
    assert "falls back to measured" in caplog.text
    assert [round(value, 4) for value, _ in seen] == [1, 1, 0.8, 0.82, 0.638, 0.4742, 0.3268]
    assert [fallback for _, fallback in seen] == [False] * 5 + [True] * 2
    assert guard.trips == 1


def test_the_correlation_the_alert_and_the_goodhart_gap_are_logged(tiny, fit, tmp_path):
    logger = CsvLogger(tmp_path / "metrics.csv")
    fit(build(tiny, "trainer.updates_per_epoch=8"), RewardGuard(0.99, every=2), logger=logger)
    with open(tmp_path / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["renpnn/goodhart_gap"]) for row in rows] == [True, False, True, False]
    assert all(-1 <= float(row["renpnn/smoothed_rank_correlation"]) <= 1 for row in rows)
    assert [row["charts/alert_reward_fallback"] for row in rows] == ["1.0"] * 4


@pytest.mark.parametrize("case", ["raw", "designed"])
def test_without_generated_rewards_there_is_nothing_to_guard(tiny, fit, case):
    agent, guard = D2RL(tiny(f"reward.case={case}")), RewardGuard(0.99)
    agent.stages["reward"] = True
    fit(agent, guard)
    assert guard.correlation is None
    assert not agent.fallback


def test_the_guard_remembers():
    guard = RewardGuard(0.8)
    guard.correlation, guard.trips = 0.7, 3
    other = RewardGuard(0.8)
    other.load_state_dict(guard.state_dict())
    assert (other.correlation, other.trips) == (0.7, 3)

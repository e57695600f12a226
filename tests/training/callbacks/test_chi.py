"""The schedule of chi: the paper's rule with M, eta and T, and what happens when learning breaks."""

from __future__ import annotations

import math
import re

import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.diagnostics import state_explorer_loss
from d2rl.config.defaults import ChiConfig
from d2rl.training.callbacks import ChiSchedule

EASY = 100.0  # a threshold that every loss is below
HARD = 1e-3


def run(
    tiny, fit, config: ChiConfig, *functions, steps: int = 4, stage: bool = True, **saved
) -> tuple[ChiSchedule, list[float]]:
    """The callback and chi after each training step of 2 updates."""
    agent, schedule, seen = (
        D2RL(tiny("stages.state=0", f"trainer.updates_per_epoch={2 * steps}")),
        ChiSchedule(config),
        [],
    )
    agent.stages["state"] = stage
    agent.chi = saved.pop("chi", 0.0)
    schedule.load_state_dict({**schedule.state_dict(), **saved})
    fit(agent, schedule, *functions, lambda _, agent: seen.append(agent.chi))
    return schedule, seen


def test_chi_grows_by_eta_each_update_up_to_the_maximum(tiny, fit):
    _, chi = run(tiny, fit, ChiConfig(policy="threshold", eta=0.05, maximum=0.25, threshold=EASY))
    assert chi == pytest.approx([0.1, 0.2, 0.25, 0.25])


def test_chi_waits_while_the_loss_is_above_the_threshold(tiny, fit):
    _, chi = run(tiny, fit, ChiConfig(policy="threshold", eta=0.05, threshold=HARD))
    assert chi == [0.0] * 4
    _, chi = run(tiny, fit, ChiConfig(policy="threshold", eta=0.05, threshold=HARD), chi=0.2)
    assert chi == [0.2] * 4


def test_the_threshold_is_for_the_smoothed_held_out_loss(tiny, fit):
    losses = []
    schedule, chi = run(
        tiny,
        fit,
        ChiConfig(eta=0.05, threshold=1.0),
        lambda _, agent: losses.append(state_explorer_loss(agent).item()),
        loss=9.0,
    )
    assert all(loss < 1.2 for loss in losses)  # without smoothing chi would have grown
    assert chi == [0.0] * 4
    assert 9 * 0.8**4 < schedule.loss < 9 * 0.8**4 + 1.2


def test_a_fixed_chi_is_the_maximum(tiny, fit):
    _, chi = run(tiny, fit, ChiConfig(policy="fixed", maximum=0.3, threshold=HARD))
    assert chi == [0.3] * 4


@pytest.mark.parametrize("policy", ["fixed", "threshold", "adaptive"])
def test_chi_stays_zero_before_the_state_stage(tiny, fit, policy):
    schedule, chi = run(tiny, fit, ChiConfig(policy=policy, eta=1.0, threshold=EASY), stage=False)
    assert chi == [0.0] * 4
    assert schedule.loss is None


@pytest.mark.parametrize(
    ("held_out", "expected"), [(1.05, [0.2, 0.1, 0.0, 0.0]), (0.5, [0.2, 0.1, 0.0, 0.0]), (1.3, [0.4, 0.5, 0.5, 0.5])]
)
def test_an_adaptive_chi_falls_unless_senpnn_knows_its_own_states_better(tiny, fit, monkeypatch, held_out, expected):
    monkeypatch.setattr("d2rl.training.callbacks.chi.state_explorer_loss", lambda agent: torch.tensor(held_out))
    monkeypatch.setattr("d2rl.training.callbacks.chi.trained_state_loss", lambda agent: torch.tensor(1.0))
    schedule, chi = run(tiny, fit, ChiConfig("adaptive", 0.05, 0.5, EASY), chi=0.3)
    assert chi == pytest.approx(expected)
    assert schedule.trained == pytest.approx(1.0)


def test_an_adaptive_chi_smooths_what_it_compares(tiny, fit, monkeypatch):
    monkeypatch.setattr("d2rl.training.callbacks.chi.state_explorer_loss", lambda agent: torch.tensor(2.0))
    monkeypatch.setattr("d2rl.training.callbacks.chi.trained_state_loss", lambda agent: torch.tensor(1.0))
    _, chi = run(tiny, fit, ChiConfig("adaptive", 0.05, 0.5, EASY), loss=2.0, trained=2.0)  # 1.8, 1.64, 1.51, 1.41
    assert chi == pytest.approx([0.1, 0.2, 0.3, 0.4])
    _, chi = run(tiny, fit, ChiConfig("adaptive", 0.05, 0.5, EASY), loss=2.0, trained=4.0)  # 3.4, 2.92, 2.54, 2.23
    assert chi == [0.0] * 4


def loss_times(factor: float, at: int):
    """Rewards that become wild at one training step: the critic's loss really rises."""

    def function(_, agent):
        agent.means.collect()
        if agent.updates == 2 * at:
            agent.replay.storage["utility"].mul_(factor)

    return function


def test_chi_backs_off_when_the_critic_diverges(tiny, fit, caplog):
    config = ChiConfig(policy="threshold", eta=0.05, maximum=0.3, threshold=EASY)
    schedule, chi = run(tiny, fit, config, loss_times(100.0, at=4), steps=5)
    assert re.search("early divergence: the critic's loss rose to .* chi backs off to 0.15", caplog.text)
    assert chi[:4] == pytest.approx([0.1, 0.2, 0.3, 0.3])
    assert chi[4] == pytest.approx(0.15)
    assert schedule.alerts == 1


def test_a_fixed_chi_stays_backed_off(tiny, fit, caplog):
    _, chi = run(tiny, fit, ChiConfig(policy="fixed", maximum=0.4), loss_times(100.0, at=2), steps=4)
    assert "early divergence" in caplog.text
    assert chi[:2] == [0.4, 0.4]
    assert chi[2] == pytest.approx(0.2)
    assert chi[3] <= chi[2]


def test_a_loss_that_is_not_finite_holds_chi_down_only_once(tiny, fit, caplog):
    kept = {}

    def poison_the_third_step(_, agent):
        agent.means.collect()
        rates = agent.replay.storage["utility"]
        if agent.updates == 4:
            kept["rates"] = rates.clone()
            rates.fill_(float("nan"))
        elif agent.updates == 6:
            rates.copy_(torch.where(rates.isnan(), kept["rates"], rates))

    config = ChiConfig(eta=0.05, maximum=0.5, threshold=EASY)
    schedule, chi = run(tiny, fit, config, poison_the_third_step, steps=5)
    assert chi == pytest.approx([0.1, 0.2, 0.15, 0.25, 0.35])
    assert schedule.alerts == caplog.text.count("early divergence: the critic's loss rose to nan") == 1
    assert math.isfinite(schedule.critic)


@pytest.mark.parametrize(("threshold", "warned"), [(0.2, True), (0.45, False)])
def test_a_threshold_below_the_floor_is_warned_of(tiny, fit, caplog, threshold, warned):
    agent = D2RL(tiny("stages.state=0"))
    assert 0.2 < agent.senpnn.floor < 0.45
    fit(agent, ChiSchedule(ChiConfig(threshold=threshold)))
    messages = [record.getMessage() for record in caplog.records if "chi.threshold" in record.getMessage()]
    assert len(messages) == warned
    if warned:
        assert f"chi.threshold=0.2 (T) is not above the floor {agent.senpnn.floor:.3f}" in messages[0]
        assert "P=3" in messages[0]


def test_the_schedule_remembers(tiny, fit):
    schedule, _ = run(tiny, fit, ChiConfig(policy="adaptive", eta=0.05, threshold=EASY), alerts=2)
    other = ChiSchedule(ChiConfig(policy="adaptive"))
    other.load_state_dict(schedule.state_dict())
    assert other.state_dict() == schedule.state_dict()
    assert other.alerts == 2
    assert other.loss == schedule.loss is not None

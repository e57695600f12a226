"""NaN and infinity put into channels, rewards, gradients and replay of a training: refused, counted, survived."""

from __future__ import annotations

from collections.abc import Callable

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from d2rl.algorithm.agent import D2RL
from d2rl.common.errors import TrainingError
from d2rl.problems.full_duplex import references
from d2rl.runs.run_directory import RunDirectory
from d2rl.training import train as training
from d2rl.training.callbacks import MixedPrecision
from d2rl.training.checkpoint import load_checkpoint

EVERYTHING = ("stages.state=0", "reward.case=designed_gdm", "ddpg.warmup_updates=0", "scenario.csi_error=0.1")
SHORT = ("ddpg.replay=32", "scenario.episode_length=4")
NAN, INFINITY = float("nan"), float("inf")


class Inject(Callback):
    """Calls ``fault(agent)`` before the training steps ``at``."""

    def __init__(self, fault: Callable[[D2RL], None], at: tuple[int, ...] = (1,)):
        self.fault, self.at, self.number = fault, at, 0

    def on_train_batch_start(self, trainer, agent, batch, batch_index):
        if self.number in self.at:
            self.fault(agent)
        self.number += 1


def build(tiny, *overrides: str) -> D2RL:
    L.seed_everything(0, verbose=False)
    agent = D2RL(tiny(*EVERYTHING, *SHORT, *overrides))
    agent.stages, agent.chi = {"action": True, "reward": True, "state": True}, 0.5
    return agent


def finite(agent: D2RL) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in (*agent.parameters(), *agent.buffers()))


def finite_moments(agent: D2RL) -> bool:
    states = [state for optimizer in agent.optimizers() for state in optimizer.state.values()]
    return all(bool(torch.as_tensor(value).isfinite().all()) for state in states for value in state.values())


def finite_replay(agent: D2RL) -> bool:
    stored = (tensor[: len(agent.replay)] for tensor in agent.replay.storage.values())
    return all(bool(tensor.isfinite().all()) for tensor in stored)


def moved(agent: D2RL) -> Callback:
    """Notes the critic's weights after every training step."""
    agent.history = []
    return lambda _, agent: agent.history.append(torch.cat([p.detach().flatten() for p in agent.critic.parameters()]))


@pytest.mark.parametrize(
    ("kind", "value"), [("downlink", NAN), ("uplink", INFINITY), ("cross", -INFINITY), ("self_interference", NAN)]
)
def test_a_channel_that_is_not_finite_never_reaches_the_replay(tiny, fit, kind, value):
    agent, watch = build(tiny), MixedPrecision()

    def fault(agent):
        getattr(agent.world.state.scattered, kind)[3].view(-1)[0] = value

    fit(agent, Inject(fault), watch, moved(agent), epochs=5)
    # one cell of 8, from then until its users are dropped anew
    assert 1 <= watch.refused <= 4
    assert finite_replay(agent)
    assert finite(agent)
    assert finite_moments(agent)
    assert not torch.equal(agent.history[-1], agent.history[-2])  # it learns again


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("utility", NAN),
        ("observation.nodes", INFINITY),
        ("observation.known.channels.downlink", NAN),
        ("generated", -INFINITY),
    ],
)
def test_a_replay_that_is_not_finite_is_skipped_until_it_is_written_over(tiny, fit, kind, value):
    agent, watch = build(tiny), MixedPrecision()
    fit(agent, Inject(lambda agent: agent.replay.storage[kind][2:6].fill_(value)), watch, moved(agent), epochs=5)
    assert watch.skipped >= 1
    assert watch.refused == 0
    assert finite_replay(agent)
    assert finite(agent)
    assert finite_moments(agent)
    assert not torch.equal(agent.history[-1], agent.history[-2])


@pytest.mark.parametrize("value", [NAN, INFINITY])
def test_a_reward_that_is_not_finite_never_reaches_the_replay(tiny, fit, value, monkeypatch):
    agent, watch, measured = build(tiny), MixedPrecision(), D2RL.case_reward
    broken = []

    def reward(self, utility, observation):
        result = measured(self, utility, observation).clone()
        if self.updates == 4 and not broken:
            broken.append(result[2].fill_(value))
        return result

    monkeypatch.setattr(D2RL, "case_reward", reward)
    agent.fallback = True  # the measured reward is what is stored
    fit(agent, watch, moved(agent), epochs=3)
    assert len(broken) == 1
    assert watch.refused + watch.skipped >= 1
    assert finite_replay(agent)
    assert finite(agent)
    assert not torch.equal(agent.history[-1], agent.history[-2])


@pytest.mark.parametrize(
    ("network", "value"), [("critic", NAN), ("aenpnn", INFINITY), ("renpnn", -INFINITY), ("senpnn", NAN)]
)
def test_a_gradient_that_is_not_finite_is_skipped_though_its_loss_is(tiny, fit, network, value):
    agent, watch = build(tiny), MixedPrecision()
    parameter = next(iter(getattr(agent, network).parameters()))
    hooks = []

    def spoil(gradient):
        hooks[0].remove()
        gradient = gradient.clone()
        gradient.view(-1)[0] = value
        return gradient

    fault = Inject(lambda agent: hooks.append(parameter.register_hook(spoil)))
    fit(agent, fault, watch, moved(agent), epochs=2)
    assert watch.skipped == 1
    assert finite(agent)
    assert finite_moments(agent)


@pytest.mark.parametrize("where", ["world", pytest.param("losses", marks=pytest.mark.slow)])
def test_a_training_with_nothing_finite_left_stops_and_its_checkpoint_is_whole(tiny, tmp_path, monkeypatch, where):
    class Broken(D2RL):
        """From the fifth update on its world, or its losses, are not finite."""

        def interact(self):
            super().interact()
            if where == "world" and self.updates >= 4:
                self.world.state.estimate.downlink.fill_(float("nan"))

        def step(self, name, loss):
            super().step(name, loss * float("nan") if where == "losses" and self.updates >= 4 else loss)

    monkeypatch.setattr(training, "D2RL", Broken)
    monkeypatch.setattr(references, "LIMIT", 5)
    config = tiny(*EVERYTHING, "trainer.epochs=20", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(
        TrainingError, match=rf"stopped at update 1[0-2]\..* checkpoints in .*{tmp_path.name}"
    ) as caught:
        training.train(config, RunDirectory.create(config, "test"))
    assert str(caught.value).startswith("training error: nothing finite was left to learn from in 3 training steps")
    for file in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        saved = load_checkpoint(file)
        assert all(bool(tensor.isfinite().all()) for tensor in saved["state_dict"].values())
        assert saved["d2rl"]["updates"] >= 4
    monkeypatch.setattr(training, "D2RL", D2RL)
    config = tiny(*EVERYTHING, "trainer.epochs=4", f"run_dir={tmp_path / 'again'}")
    last = str(tmp_path / "run" / "checkpoints" / "last.ckpt")
    again = training.train(config, RunDirectory.create(config, "test"), last)
    assert again.agent.updates == 16
    assert finite(again.agent)

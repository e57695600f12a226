"""Gymnasium environments as problems: what a step brings, what is refused, and all explorers on one."""

from __future__ import annotations

import json
import logging
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import FlattenObservation

from d2rl.algorithm.agent import D2RL
from d2rl.commands.train_eval import evaluate_command, train_command
from d2rl.common.errors import ConfigError, InputError
from d2rl.common.notices import notice_once
from d2rl.evaluation.episodes import EpisodeEvaluation
from d2rl.problems import load_config
from d2rl.problems.base import Simulation
from d2rl.problems.gymnasium import GymnasiumConfig, GymnasiumProblem
from d2rl.testing import check_problem

BOX, INFINITE = gym.spaces.Box, np.inf
SMALL = (
    *("network.width=4", "network.layers=1", "ddpg.batch=8", "ddpg.critic_batch=8", "ddpg.replay=64"),
    *("ddpg.warmup_updates=2", "action.steps=2", "reward.steps=2", "reward.every=1", "state.steps=3", "state.every=1"),
    *("trainer.epochs=1", "trainer.updates_per_epoch=20", "trainer.updates_per_step=4", "trainer.updates_per_slot=2"),
    *("trainer.accelerator=cpu", "trainer.progress=false", "evaluation.drops=3", "evaluation.every=1"),
    *("logger.mode=disabled", "state.width=8"),
)
ALL_EXPLORERS = ("stages.action=0", "stages.reward=0", "stages.state=0", "reward.generated=true")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Clock(gym.Env):
    """Tells the steps since its reset; the reward is the sum of the action. Ends by itself at ``end``."""

    def __init__(self, end=math.inf, observations=None, actions=None, broken_at=math.inf):
        self.observation_space = observations or BOX(0, 10, (1,), np.float32)
        self.action_space = actions or BOX(np.float32([0.1, -3]), np.float32([0.3, 5]))
        self.end, self.broken_at = end, broken_at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.seen(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.count += 1
        return self.seen(), float(action.sum()), self.count >= self.end, False, {}

    def seen(self):
        value = self.count if self.count < self.broken_at else np.nan
        return np.full(self.observation_space.shape, value, self.observation_space.dtype)


class Walk(gym.Env):
    """A random walk from a random place, whose observations have no bounds; the last one never changes."""

    observation_space = BOX(-INFINITE, INFINITE, (3,), np.float64)
    action_space = BOX(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.normal(size=2)
        return self.seen(), {}

    def step(self, action):
        self.place = self.place + action
        return self.seen(), -float(np.square(self.place).sum()), False, False, {}

    def seen(self):
        return np.array([1000 * self.place[0], self.place[1] - 50, 7.0])


class Copy(gym.Env):
    """Shows a number and wants it back, ten times."""

    observation_space = action_space = BOX(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.seen(), {}

    def step(self, action):
        reward = -float(np.square(action - self.shown).sum())
        return self.seen(), reward, False, False, {}

    def seen(self):
        self.shown = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.shown


def register(name, environment, **options):
    if f"test/{name}-v0" not in gym.registry:
        gym.register(f"test/{name}-v0", environment, **options)


class Gym021(Clock):
    """The interface before Gym 0.26."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]

    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


class FourValues(Clock):
    """A new reset, an old step."""

    def step(self, action):
        return super().step(action)[:4]


class Wrong(Clock):
    """Gives ``reward``, and observations of ``size`` numbers."""

    def __init__(self, reward=0.0, size=1):
        super().__init__()
        self.reward, self.size = reward, size

    def step(self, action):
        return np.zeros(self.size, np.float32), self.reward, False, False, {}


class Parts(Clock):
    """Shows its number as a part of a Dict."""

    def __init__(self):
        super().__init__(observations=gym.spaces.Dict(a=BOX(0, 10, (1,), np.float32)))

    def seen(self):
        return {"a": np.full(1, self.count, np.float32)}


class NoSpaces(gym.Env):
    """Forgets to say what it shows."""


class Failing(Clock):
    """Has a mistake in it."""

    def step(self, action):
        return {}["user_positions"]


register("Clock", Clock, max_episode_steps=3)
register("Ending", Clock, max_episode_steps=3, kwargs={"end": 2}, reward_threshold=4.0)
register("Both", Clock, max_episode_steps=2, kwargs={"end": 2})
register("Walk", Walk, max_episode_steps=20)
register("Copy", Copy, max_episode_steps=10)
register("Broken", Clock, kwargs={"broken_at": 0})
register("BreaksLater", Clock, kwargs={"broken_at": 5})
register("Dict", Clock, kwargs={"observations": gym.spaces.Dict(a=BOX(0, 1))})
register("Unbounded", Clock, kwargs={"actions": BOX(-INFINITE, 1, (1,), np.float32)})
register("Whole", Clock, kwargs={"actions": BOX(0, 3, (1,), np.int64)})
register("Still", Clock, kwargs={"actions": BOX(0, 0, (1,), np.float32)})
register("Gym021", Gym021, max_episode_steps=3)
register("FourValues", FourValues, max_episode_steps=3)
register("TwoNumbers", Wrong, kwargs={"size": 2})
register("ArrayReward", Wrong, kwargs={"reward": np.zeros(1)})
register("NoReward", Wrong, kwargs={"reward": None})
register("IntegerReward", Wrong, kwargs={"reward": 1}, max_episode_steps=3)
register("NoSpaces", NoSpaces)
register("Failing", Failing)
register("Endless", Clock)
register("Wrapped", lambda: FlattenObservation(Parts()), max_episode_steps=3)


class NeedsFile(Clock):
    """Takes an argument without a default."""

    def __init__(self, channel_file):
        super().__init__()


register("NeedsFile", NeedsFile)


def problem_of(name, **settings):
    return GymnasiumProblem(GymnasiumConfig(f"test/{name}-v0", **settings))


def config_of(name, *overrides):
    return load_config(["problem=gymnasium", f"gymnasium.id=test/{name}-v0", *SMALL, *overrides])


def steps_of(problem, count, batch=2, seed=0):
    """Steps with random actions, and the simulation after them."""
    simulation, policy = Simulation(problem, batch, seed), problem.references()["random"]
    return [simulation.step(policy(simulation.state)) for _ in range(count)], simulation


def counts(state):
    """What the clock showed, from its normalised observation."""
    return (5 * state.observation + 5).flatten().tolist()


@pytest.mark.parametrize(
    ("name", "length", "truncated", "terminated"),
    [("Clock", 3, True, False), ("Ending", 2, False, True), ("Both", 2, True, True)],
)
def test_an_episode_ends_with_its_own_last_observation_and_a_new_one_begins(name, length, truncated, terminated):
    steps, simulation = steps_of(problem_of(name), length)
    for number, step in enumerate(steps[:-1], start=1):
        assert not bool((step.truncated | step.terminated).any())
        assert counts(step.following) == counts(step.state) == pytest.approx([number] * 2)
    assert steps[-1].truncated.tolist() == [truncated] * 2
    assert steps[-1].terminated.tolist() == [terminated] * 2
    assert counts(steps[-1].following) == pytest.approx([length] * 2)
    assert counts(simulation.state) == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize("name", ["Clock", "Ending", "Walk"])
def test_environments_conform(name):
    check_problem(problem_of(name))


def test_max_episode_steps_replaces_the_registered_length():
    steps, _ = steps_of(problem_of("Clock", max_episode_steps=2), 2)
    assert bool(steps[-1].truncated.all())


@pytest.mark.parametrize("action", [(-1, -1), (1, 1), (-9, 1), (0, 0.5)], ids=str)
def test_actions_reach_the_environment_within_its_bounds(action):
    problem = problem_of("Clock")
    state = problem.reset(1, torch.Generator())
    decision = problem.decode(problem.observe(state), torch.tensor(action).view(1, 1, 2))
    first, second = (max(-1, value) for value in action)
    expected = 0.2 + 0.1 * first + 1 + 4 * second  # the clock refuses what is outside
    assert float(problem.step(state, decision, torch.Generator()).utility) == pytest.approx(expected, rel=1e-5)


def test_observations_without_bounds_get_unit_spread_the_same_wherever_the_problem_is_built():
    steps, _ = steps_of(problem_of("Walk"), 40, batch=20)
    seen = torch.cat([step.state.observation for step in steps])
    assert seen[:, :2].mean(0).abs().max() < 0.5
    assert 0.5 < float(seen[:, :2].std(0).min()) < float(seen[:, :2].std(0).max()) < 2
    assert torch.equal(seen[:, 2], torch.zeros(len(seen)))  # a number that never changes is no division by zero
    again, _ = steps_of(problem_of("Walk"), 40, batch=20)
    assert torch.equal(seen, torch.cat([step.state.observation for step in again]))


def test_states_follow_the_seed():
    problem = problem_of("Walk")
    first, other = (Simulation(problem, 4, seed).state.observation for seed in (0, 1))
    assert torch.equal(first, Simulation(problem, 4, 0).state.observation)
    assert len(torch.cat([first, other])[:, 0].unique()) == 8


def test_a_stored_simulation_goes_on_with_new_episodes_and_says_so(caplog):
    problem = problem_of("Clock")
    _, simulation = steps_of(problem, 2)
    other = Simulation(problem, 2, 5)
    with caplog.at_level(logging.WARNING):
        other.load_state_dict(simulation.state_dict())
    assert "gymnasium.id=test/Clock-v0" in caplog.text
    assert counts(other.state) == pytest.approx([0, 0], abs=1e-6)
    assert counts(other.step(torch.zeros(2, 2)).state) == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ("gymnasium.id=CartPole-v1", "gymnasium.id=CartPole-v1 has actions of the kind Discrete"),
        ("gymnasium.id=test/Dict-v0", "observations of the kind Dict"),
        ("gymnasium.id=test/Unbounded-v0", "without finite real bounds"),
        ("gymnasium.id=test/Whole-v0", "without finite real bounds"),
        ("gymnasium.id=test/Still-v0", "without finite real bounds"),
        ("gymnasium.id=test/NoSpaces-v0", "observations of the kind NoneType"),
        ("gymnasium.id=test/Gym021-v0", "reset() must return (observation, info)"),
        ("gymnasium.id=test/FourValues-v0", "step() must return (observation, reward, terminated, truncated, info)"),
        ("gymnasium.id=test/TwoNumbers-v0", "of step() has shape (2,), and observation_space has (1,)"),
        ("gymnasium.id=test/ArrayReward-v0", "gave the reward array([0.]); it must be one number"),
        ("gymnasium.id=test/NoReward-v0", "gave the reward None; it must be one number"),
        ("gymnasium.id=test/NeedsFile-v0", "Its arguments belong into gymnasium.register(..., kwargs={...})"),
        ("gymnasium.id=test/Failing-v0", "KeyError: 'user_positions' (" + __file__),
        ("gymnasium.id=test/Broken-v0", "gymnasium.id=test/Broken-v0 gave an observation that is not finite"),
        ("gymnasium.id=Pendulum-v99", "gymnasium.id=Pendulum-v99 cannot be used"),
        ("gymnasium.id=no_such_module:Thing-v0", "No module named 'no_such_module'"),
        ("action.candidates=2", "set action.candidates=1"),
        ("network.kind=link_graph", "set network.kind=mlp"),
        ("ddpg.analytic=true", "set ddpg.analytic=false"),
        ("evaluation.best_of=4", "set evaluation.best_of=1"),
        ("evaluation.refine=4", "set evaluation.refine=0"),
        ("evaluation.slots=4", "set evaluation.slots=0"),
        ("evaluation.weights=1", "set evaluation.weights=null"),
    ],
    ids=lambda value: value.partition("=")[2] if "=" in value else "",
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(change, names, tmp_path):
    with pytest.raises(ConfigError) as refused:
        train_command(["problem=gymnasium", *SMALL, f"run_dir={tmp_path / 'run'}", change])
    assert names in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (("stages.reward=0", "reward.generated=true", "trainer.num_envs=1"), "trainer.num_envs of 2"),
        (("stages.state=0", "action.objective=mixed"), "set action.objective=chain"),
    ],
    ids=["generated", "mixed"],
)
def test_explorers_that_would_learn_from_nothing_are_refused(changes, names):
    with pytest.raises(ConfigError, match=names):
        D2RL(config_of("Clock", *changes))


def test_an_environment_that_breaks_later_ends_with_its_name():
    problem = problem_of("BreaksLater")
    with pytest.raises(InputError, match=r"gymnasium\.id=test/BreaksLater-v0 gave an observation"):
        steps_of(problem, 5)


def test_a_wrapper_makes_a_vector_of_a_dict():
    steps, _ = steps_of(problem_of("Wrapped"), 2)
    assert counts(steps[1].state) == pytest.approx([2, 2])


def test_a_reward_may_be_a_whole_number():
    assert steps_of(problem_of("IntegerReward"), 1)[0][0].utility.flatten().tolist() == [1, 1]


def test_episodes_that_nothing_cuts_are_told(caplog):
    notice_once.cache_clear()
    problem_of("Clock")
    assert not caplog.text
    problem_of("IntegerReward", max_episode_steps=5)
    assert not caplog.text
    problem_of("Endless")
    assert "gymnasium.max_episode_steps=N cuts it" in caplog.text


def test_a_key_of_another_problem_names_the_problem_to_add():
    with pytest.raises(ConfigError, match=r"add problem=gymnasium"):
        load_config(["gymnasium.id=Pendulum-v1"])


def test_the_name_of_the_problem_is_enough():
    assert load_config(["problem=gymnasium"]) == load_config(["conf=gymnasium"])
    assert load_config(["problem=gymnasium"]).ddpg.gamma > 0


def test_an_environment_of_another_package_is_found(tmp_path, monkeypatch):
    (tmp_path / "a_package.py").write_text(
        "import gymnasium as gym\n"
        "gym.register('another/Pendulum-v0', 'gymnasium.envs.classic_control.pendulum:PendulumEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    problem = GymnasiumProblem(GymnasiumConfig("a_package:another/Pendulum-v0"))
    assert problem.sizes.flat == 3
    gym.registry.pop("another/Pendulum-v0")


def test_synthetic_observations_are_learned_from_but_never_stepped_or_stored(fit):
    agent = D2RL(config_of("Clock", *ALL_EXPLORERS))
    imagined = []

    def watch(trainer, agent):
        agent.chi = 0.5
        imagined.append(agent.imagines)

    agent.stages["state"] = agent.stages["action"] = True
    agent.chi = 0.5
    fit(agent, watch)
    assert any(imagined)
    for name in ("observation.nodes", "following.nodes"):
        shown = 5 * agent.replay.storage[name][: len(agent.replay)] + 5
        assert torch.allclose(shown, shown.round(), atol=1e-5)


def test_all_explorers_train_in_a_run_that_can_be_evaluated_and_resumed(tmp_path):
    run = tmp_path / "run"
    plan = ["problem=gymnasium", "gymnasium.id=test/Ending-v0", *SMALL, *ALL_EXPLORERS, "chi.eta=0.5"]
    train_command([*plan, f"run_dir={run}"])
    report = json.loads((run / "eval.json").read_text())
    assert set(report["policies"]) == {"d2rl", "random"}
    assert report["metric"] == "return"
    metrics = report["policies"]["d2rl"]
    assert metrics["episode_length"] == 2
    assert metrics["return_worst"] <= metrics["return"] <= metrics["return_best"] <= 2 * 5.3 + 1e-4
    assert 0 <= metrics["solved_share"] <= 1
    evaluate_command([f"ckpt={run}", f"out={tmp_path}"])
    assert json.loads((tmp_path / "eval.json").read_text())["policies"].keys() == report["policies"].keys()
    train_command([f"resume={run}", "trainer.epochs=2", f"run_dir={tmp_path / 'longer'}"])
    lines = (tmp_path / "longer" / "metrics.csv").read_text().splitlines()
    assert lines[-1].startswith(f"{4 * 20},")  # 4 environments, a slot in every 2 of 40 updates


def test_ddpg_learns_to_copy(fit):
    plan = ("trainer.updates_per_epoch=200", "ddpg.replay=2000", "ddpg.batch=32", "ddpg.critic_batch=32")
    rates = ("ddpg.actor_rate=1e-2", "ddpg.critic_rate=1e-2", "ddpg.target_rate=0.05", "network.width=8")
    agent = D2RL(config_of("Copy", *plan, *rates, "ddpg.gamma=0.5", "ddpg.reward_scale=1"))
    fit(agent)
    evaluation = EpisodeEvaluation(agent.problem, 8, 0)

    def policy(state):
        return agent.problem.decode(None, agent.propose(agent.problem.observe(state), 1, torch.Generator()))

    assert evaluation.judge(policy)["return"] > evaluation.policies["random"]["return"] / 5

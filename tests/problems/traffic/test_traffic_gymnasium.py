"""The cell with queues in Gymnasium: checkers, seeds, rewards."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import d2rl.envs  # noqa: F401, registers the environment
from d2rl.common.errors import ConfigError
from d2rl.problems.traffic.gymnasium_env import TrafficVectorEnv

ID = "d2rl/Traffic-v0"
SMALL = {"downlink_users": 3, "uplink_users": 2, "transmit_antennas": 4, "receive_antennas": 4, "episode_length": 3}
KINDS = [
    {},
    SMALL,
    {**SMALL, "load": 3.0, "downlink_deadline": 2, "uplink_buffer": 5.0, "csi_delay": 1},
    {**SMALL, "arrivals": "on_off,poisson,full_buffer+periodic", "uplink_deadline": 3},
]


@pytest.mark.parametrize("options", KINDS)
def test_gymnasium_and_its_passive_checker_have_nothing_to_say(options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(ID, **options)
        check_env(env.unwrapped)
        env.reset(seed=0)
        assert env.observation_space.contains(env.step(env.action_space.sample())[0])


def test_stable_baselines_has_nothing_to_say():
    checker = pytest.importorskip("stable_baselines3.common.env_checker", reason="stable-baselines3 (extra peers)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(gymnasium.make(ID, **SMALL), skip_render_check=False)


def test_one_cell_and_the_first_of_several_do_the_same():
    outcomes = []
    for env in (gymnasium.make(ID, **SMALL), gymnasium.make_vec(ID, num_envs=1, **SMALL)):
        observation, _ = env.reset(seed=3)
        size = env.action_space.shape
        _, reward, _, truncated, info = env.step(np.full(size, 0.3, dtype=np.float32))
        outcomes.append((observation.ravel(), np.ravel(reward), np.ravel(truncated), np.ravel(info["backlog"])))
    for first, second in zip(*outcomes, strict=True):
        assert np.array_equal(first, second)


def test_the_reward_is_minus_what_waits_and_an_episode_ends_in_time():
    env = gymnasium.make_vec(ID, num_envs=4, reward_scale=2.0, **SMALL)
    env.reset(seed=0)
    for slot in range(1, 4):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        told = info if slot < 3 else info["final_info"]
        assert np.allclose(reward, -told["backlog"].sum(-1) / 2, rtol=1e-5)
        assert not terminated.any()
        assert truncated.all() == (slot == 3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"loads": 3}, "loads"),
        ({"load": -1}, "load cannot be -1"),
        ({"wmmse": True}, "leave it out"),
        ({"load_low": 2.0}, "load_low"),
        ({"arrivals": "on_off,periodic"}, "does not tell downlink from uplink"),
    ],
)
def test_options_that_cannot_be_are_refused(options, told):
    with pytest.raises(ConfigError, match=told):
        gymnasium.make(ID, **options)


def test_stable_baselines_is_shown_what_the_vector_environment_shows():
    pytest.importorskip("stable_baselines3", reason="needs the extra peers")
    from d2rl.problems.full_duplex.stable_baselines import CellVecEnv

    theirs, ours = CellVecEnv(3, TrafficVectorEnv, load=0.5), TrafficVectorEnv(3, load=0.5)
    theirs.seed(7)
    action = np.zeros((3, *ours.single_action_space.shape), dtype=np.float32)
    assert np.array_equal(theirs.reset(), ours.reset(seed=7)[0])
    observation, reward, _, _ = theirs.step(action)
    expected, rewards, *_ = ours.step(action)
    assert np.array_equal(observation, expected)
    assert np.allclose(reward, rewards)

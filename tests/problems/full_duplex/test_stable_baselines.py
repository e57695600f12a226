"""The simulator as a VecEnv: ends of episodes as Stable-Baselines3 wants them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("stable_baselines3", reason="stable-baselines3 (extra peers)")

from stable_baselines3 import SAC

from d2rl.common.errors import ConfigError
from d2rl.problems.full_duplex.gymnasium_env import FullDuplexVectorEnv
from d2rl.problems.full_duplex.stable_baselines import CellVecEnv

SMALL = {"downlink_users": 3, "uplink_users": 2, "transmit_antennas": 4, "receive_antennas": 4, "episode_length": 3}


def actions(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, 10)).astype(np.float32)


def test_it_is_the_vector_environment_with_infos_cell_by_cell():
    env, oracle = CellVecEnv(4, **SMALL), FullDuplexVectorEnv(4, **SMALL)
    env.seed(7)
    assert np.array_equal(env.reset(), oracle.reset(seed=7)[0])
    for slot in range(7):
        observation, reward, done, infos = env.step(actions(4))
        expected = oracle.step(actions(4))
        assert np.array_equal(observation, expected[0])
        np.testing.assert_allclose(reward, expected[1], rtol=1e-6)
        assert done.tolist() == expected[3].tolist() == [slot in (2, 5)] * 4
        assert [info["TimeLimit.truncated"] for info in infos] == done.tolist()
        for cell, info in enumerate(infos):
            assert ("terminal_observation" in info) == bool(done[cell])
            if done[cell]:
                assert np.array_equal(info["terminal_observation"], expected[4]["final_obs"][cell])


def test_the_replay_buffer_keeps_the_end_of_an_episode_and_no_termination():
    """At rest every observation of an episode is the same, so a transition that leads to the next one would show."""
    env = CellVecEnv(4, speed=0.0, **SMALL)
    model = SAC("MlpPolicy", env, learning_starts=10**6, gamma=0.0, seed=0).learn(40)
    buffer = model.replay_buffer
    stored = slice(0, buffer.pos)
    assert buffer.pos == 10
    assert np.array_equal(buffer.observations[stored], buffer.next_observations[stored])
    assert len(np.unique(buffer.observations[stored, 0], axis=0)) == 4  # episodes begun
    assert buffer.timeouts[stored, 0].tolist() == [0, 0, 1] * 3 + [0]
    sample = buffer.sample(64)
    assert not sample.dones.any()


def test_a_seed_decides_and_the_world_goes_on_without_one():
    env = CellVecEnv(2, **SMALL)
    env.seed(1)
    first, second = env.reset(), env.reset()
    env.seed(1)
    assert np.array_equal(env.reset(), first)
    assert np.array_equal(env.reset(), second)
    assert not np.array_equal(first, second)


def test_mistakes_are_told():
    with pytest.raises(ConfigError, match="downlink_users"):
        CellVecEnv(2, downlink_user=3)
    env = CellVecEnv(2, **SMALL)
    assert env.env_is_wrapped(object) == [False, False]
    assert env.get_attr("episode_length", [1]) == [3]
    with pytest.raises(NotImplementedError, match="one simulator"):
        env.set_attr("slot", 3)
    with pytest.raises(NotImplementedError, match="one simulator"):
        env.env_method("reset")

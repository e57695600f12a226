"""The cell in Gymnasium: checkers, seeds, episodes, rewards, and one simulator for many cells."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import d2rl.envs  # noqa: F401, registers the environment
from d2rl.common.errors import ConfigError, InputError
from d2rl.envs import FullDuplexConfig, FullDuplexEnv
from d2rl.problems.full_duplex.gymnasium_env import FullDuplexVectorEnv, flat_features
from d2rl.problems.full_duplex.observation import observe
from d2rl.wireless import link_rates, wmmse
from d2rl.wireless.bank_file import save_bank
from d2rl.wireless.channel_bank import ChannelBank

ID = "d2rl/FullDuplex-v0"
SMALL = {"downlink_users": 3, "uplink_users": 2, "transmit_antennas": 4, "receive_antennas": 4}
SCENARIOS = [
    {},
    SMALL,
    {"head": "beamforming", **SMALL},
    {"csi_error": 0.1, "priority_user": 1.0},
    {"path_loss": "nlos", "bs_power": 30.0, "rician": 6.0},
    {"self_interference": 0.0, "minimum_distance": 1.0, "cell_radius": 2.0},
]


def vector(count: int = 3, **options: Any) -> FullDuplexVectorEnv:
    return gymnasium.make_vec(ID, num_envs=count, **{**SMALL, "episode_length": 3, **options})


def run(env: Any, steps: int, seed: int = 0) -> list[tuple]:
    """Reset, then the same random actions for every environment of one action space; one cell is reset at an end."""
    outcomes, draw = [env.reset(seed=seed)], np.random.default_rng(0)
    for _ in range(steps):
        outcomes.append(env.step(draw.uniform(-1, 1, env.action_space.shape).astype(np.float32)))
        if outcomes[-1][3] is True:
            outcomes.append(env.reset())
    return outcomes


def same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, tuple | list) or (isinstance(first, np.ndarray) and first.dtype == object):
        return len(first) == len(second) and all(map(same, first, second))
    return type(first) is type(second) and np.array_equal(first, second)


# ------------------------------------------------------------------ checkers


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_gymnasium_and_its_passive_checker_have_nothing_to_say(scenario):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(ID, **scenario)  # make adds the passive checker
        check_env(env.unwrapped)
        for outcome in run(env, 3):
            assert env.observation_space.contains(outcome[0])


@pytest.mark.parametrize("scenario", [{}, SMALL])
def test_stable_baselines_has_nothing_to_say(scenario):
    checker = pytest.importorskip("stable_baselines3.common.env_checker", reason="stable-baselines3 (extra peers)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(gymnasium.make(ID, **scenario), skip_render_check=False)


def test_spaces_are_finite_and_grow_with_the_users():
    for users, links in (({}, 10), (SMALL, 5), ({"downlink_users": 1, "uplink_users": 1}, 2)):
        env = gymnasium.make(ID, **users)
        assert env.observation_space.shape == (7 * links + 4 * links**2,)
        assert env.action_space.shape == (2 * links,)
        for space in (env.observation_space, env.action_space):
            assert space.dtype == np.float32
            assert space.is_bounded()
    assert gymnasium.make(ID, head="beamforming").action_space.shape == (2 * 8 * 6 + 4,)


# ------------------------------------------------------------------ what is observed and rewarded


def test_an_observation_is_nodes_then_edges_of_what_the_agent_sees():
    env = vector(4, csi_error=0.2, priority_user=0.5)
    flat, _ = env.reset(seed=3)
    state = FullDuplexEnv(FullDuplexConfig(**SMALL, csi_error=0.2, priority_user=0.5), 4, seed=3).state
    seen = observe(state.estimate, state.weights)
    nodes, edges = flat[:, :35].reshape(4, 5, 7), flat[:, 35:].reshape(4, 5, 5, 4)
    np.testing.assert_allclose(nodes, seen.nodes, atol=1e-6)
    np.testing.assert_allclose(edges, seen.edges, atol=1e-6)
    np.testing.assert_allclose(np.exp(nodes[..., 6]), state.weights, rtol=1e-5)


def test_the_reward_is_the_weighted_sum_rate_on_the_true_channels():
    options = {"csi_error": 0.2, "priority_direction": 0.7}
    env, scaled = vector(4, **options), vector(4, **options, reward_scale=10.0)
    state = FullDuplexEnv(FullDuplexConfig(**SMALL, **options), 4, seed=0).state
    (_, _), (_, reward, *_, info) = run(env, 1)
    action = torch.tensor(np.random.default_rng(0).uniform(-1, 1, (4, 10)).astype(np.float32))
    decision = env.cells.head.decode(state.estimate, action)
    rates = link_rates(state.channels, *decision).double()
    np.testing.assert_allclose(info["rates"], rates, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(reward, (rates * state.weights).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(info["downlink_rate"], rates[:, :3].sum(-1), rtol=1e-4)
    np.testing.assert_allclose(info["uplink_rate"], rates[:, 3:].sum(-1), rtol=1e-4)
    np.testing.assert_allclose(info["sum_rate"], rates.sum(-1), rtol=1e-4)
    assert abs(reward - info["sum_rate"]).min() > 1e-3  # weights count
    np.testing.assert_allclose(run(scaled, 1)[1][1], reward / 10, rtol=1e-12)


def test_wmmse_is_told_only_on_request():
    assert "wmmse" not in run(vector(), 1)[1][4]
    env = vector(2, wmmse=True, csi_error=0.1, priority_user=0.5)
    told = run(env, 1)[1][4]["wmmse"]
    state = FullDuplexEnv(FullDuplexConfig(**SMALL, csi_error=0.1, priority_user=0.5), 2, seed=0).state
    rates = link_rates(state.channels, *wmmse(state.estimate, 200, weights=state.weights))
    np.testing.assert_allclose(told, (rates * state.weights).sum(-1), rtol=1e-5)


def test_rewards_of_one_cell_are_python_numbers():
    _, reward, terminated, truncated, info = run(gymnasium.make(ID, **SMALL), 1)[1]
    assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
    assert reward == pytest.approx(info["sum_rate"], rel=1e-6)
    assert reward == pytest.approx(info["rates"].sum(), rel=1e-5)
    assert all(type(info[name]) is float for name in ("sum_rate", "downlink_rate", "uplink_rate"))


# ------------------------------------------------------------------ seeds and episodes


@pytest.mark.parametrize("options", [{}, {"csi_error": 0.2, "priority_user": 0.3}, {"stored_states": 4}])
def test_a_seed_decides_everything_and_another_seed_changes_it(options):
    for make in (lambda: gymnasium.make(ID, **SMALL, **options, disable_env_checker=True).unwrapped, vector):
        env, again = make(), make()
        first = run(env, 12, seed=7)
        assert same(first, run(again, 12, seed=7))
        assert same(first[0], env.reset(seed=7))  # in the same environment too
        assert not same(first[0], env.reset(seed=8))
        assert not same(first[0], env.reset())


def test_without_a_seed_two_environments_differ():
    assert not same(vector().reset(), vector().reset())
    assert not same(gymnasium.make(ID).reset(), gymnasium.make(ID).reset())


def test_an_episode_is_cut_after_its_length_and_never_terminates():
    env = gymnasium.make(ID, **SMALL, episode_length=4)
    for _ in range(2):
        env.reset(seed=0)
        steps = [env.step(env.action_space.sample()) for _ in range(4)]
        assert [step[3] for step in steps] == [False, False, False, True]
        assert not any(step[2] for step in steps)
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(env.action_space.sample())


def test_states_of_a_channel_bank_are_episodes_of_one_slot(tmp_path):
    drawn = FullDuplexEnv(FullDuplexConfig(**SMALL), 20, seed=0)
    state = drawn.state
    save_bank(ChannelBank(state.channels, state.gains, state.weights, state.positions, 1), tmp_path / "bank.npz")
    bank = {"channel_bank": str(tmp_path / "bank.npz")}
    outcomes = run(vector(**bank), 4)
    assert all(outcome[3].all() for outcome in outcomes[1:])
    one = run(gymnasium.make(ID, **SMALL, **bank), 4)
    assert [outcome[3] for outcome in one[1::2]] == [True] * 4
    assert same(run(vector(**bank), 4), outcomes)
    shown = torch.from_numpy(np.concatenate([outcome[0] for outcome in outcomes]))
    apart = (shown.unsqueeze(1) - flat_features(state)).abs().amax(-1)  # [shown, stored]
    assert apart.amin(1).max() < 1e-4  # batches of other sizes are rounded differently
    assert apart.median() > 0.1


def test_users_stay_in_an_episode_and_are_dropped_anew_by_reset():
    """Without motion the channels are the drop's own."""
    env = gymnasium.make(ID, **SMALL, speed=0.0, episode_length=3)
    first, _ = env.reset(seed=0)
    for _ in range(3):
        assert np.array_equal(env.step(env.action_space.sample())[0], first)
    assert not np.array_equal(env.reset()[0], first)


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_many_cells_follow_gymnasiums_own_vectorizer(mode):
    """One cell in a SyncVectorEnv is the oracle of what a step returns around the end of an episode."""
    options = {**SMALL, "episode_length": 3, "speed": 30.0}
    oracle = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make(ID, **options)], autoreset_mode=mode)
    env = gymnasium.make_vec(ID, num_envs=1, autoreset_mode=mode, **options)
    assert env.metadata["autoreset_mode"] is oracle.metadata["autoreset_mode"] is AutoresetMode(mode)
    assert env.observation_space == oracle.observation_space
    assert env.action_space == oracle.action_space
    for ours, theirs in zip(run(env, 9), run(oracle, 9), strict=True):
        assert same(ours, theirs)


def test_next_step_ignores_the_action_after_the_end_and_rewards_nothing():
    env = vector(autoreset_mode="NextStep", speed=0.0)
    outcomes = run(env, 5)
    assert [bool(outcome[3].all()) for outcome in outcomes[1:]] == [False, False, True, False, False]
    assert not outcomes[4][1].any()
    assert all(outcome[1].all() for n, outcome in enumerate(outcomes[1:], 1) if n != 4)
    assert np.array_equal(outcomes[3][0], outcomes[0][0])
    assert not np.array_equal(outcomes[4][0], outcomes[0][0])


def test_same_step_keeps_the_last_observation_of_the_episode():
    outcomes = run(vector(4, speed=0.0), 3)  # at rest the last observation is the first
    before, after, info = outcomes[0][0], outcomes[3][0], outcomes[3][4]
    assert np.array_equal(np.stack(info["final_obs"]), before)
    assert info["_final_obs"].all()
    assert info["final_info"]["rates"].shape == (4, 5)
    assert not (after == before).all(1).any()


def test_disabled_autoreset_waits_for_reset():
    env = vector(autoreset_mode="Disabled")
    assert run(env, 3)[3][3].all()
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(env.action_space.sample())
    env.reset()
    assert not env.step(env.action_space.sample())[3].any()


def test_episode_statistics_of_gymnasium_count_every_slot():
    env = RecordEpisodeStatistics(vector(4))
    outcomes = run(env, 3)
    episode = outcomes[-1][4]["episode"]
    assert episode["l"].tolist() == [3] * 4
    np.testing.assert_allclose(episode["r"], sum(outcome[1] for outcome in outcomes[1:]))


def test_many_cells_are_one_simulator():
    env = vector(64)
    assert isinstance(env.unwrapped, FullDuplexVectorEnv)
    env.reset(seed=5)
    assert env.cells.num_envs == 64
    alone = FullDuplexEnv(FullDuplexConfig(**SMALL, episode_length=10**6), 64, seed=5)
    for _ in range(2):
        env.step(env.action_space.sample())
        alone.advance()
    assert torch.equal(env.cells.state.channels.uplink, alone.state.channels.uplink)


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"downlink_user": 3}, ["downlink_user ", "downlink_users"]),
        ({"nonsense": 1}, ["nonsense", "uplink_users", "csi_error"]),
        ({"csi_error": 2}, ["csi_error", "2", "at most 1"]),
        ({"path_loss": "line of sight"}, ["path_loss", "nlos"]),
        ({"minimum_distance": 200.0}, ["minimum_distance", "200", "cell_radius"]),
        ({"reward_scale": 0.0}, ["reward_scale", "above 0"]),
    ],
)
@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
def test_an_option_that_cannot_be_used_gets_one_clear_message(make, options, words):
    with pytest.raises(ConfigError) as error:
        make(ID, **options)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


def test_options_of_the_other_face_are_refused():
    with pytest.raises(ConfigError, match="make_vec"):
        gymnasium.make(ID, num_envs=4)
    with pytest.raises(ConfigError, match="SameStep"):
        gymnasium.make_vec(ID, autoreset_mode="Sometimes")
    with pytest.raises(ConfigError, match="num_envs"):
        gymnasium.make_vec(ID, num_envs=0)
    with pytest.raises(InputError, match="reset_mask"):
        vector().reset(options={"reset_mask": np.ones(3, bool)})


def test_numpy_numbers_serve_as_options():
    env = gymnasium.make(ID, downlink_users=np.int64(2), cell_radius=np.float32(50))
    assert (env.unwrapped.config.downlink_users, env.unwrapped.config.cell_radius) == (2, 50.0)


def test_actions_that_cannot_be_used_are_refused_and_large_ones_clipped():
    env = vector(2)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros((2, 10), np.float32))
    env.reset(seed=0)
    for wrong in (np.zeros((2, 9)), np.zeros(10), np.zeros((3, 10))):
        with pytest.raises(InputError, match="shape"):
            env.step(wrong)
    with pytest.raises(InputError, match="NaN"):
        env.step(np.full((2, 10), np.nan))
    far, edge = vector(2), vector(2)
    far.reset(seed=0)
    edge.reset(seed=0)
    corners = np.sign(np.random.default_rng(0).normal(size=(2, 10)))
    assert same(far.step(7 * corners), edge.step(corners))


def test_what_a_learner_is_told_is_no_option_of_an_environment():
    with pytest.raises(ConfigError, match=r"feedback=scalar is for training"):
        vector(2, feedback="scalar")

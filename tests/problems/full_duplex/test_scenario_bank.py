"""Training and evaluation on a channel bank: which states are shown, and to whom."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from d2rl.common.errors import CheckpointError, ConfigError
from d2rl.common.notices import notice_once
from d2rl.config.defaults import FullDuplexConfig
from d2rl.envs import FullDuplexEnv
from d2rl.problems.full_duplex.simulator import CellState, evaluation_states
from d2rl.wireless.bank_file import load_bank, save_bank
from d2rl.wireless.channel_bank import ChannelBank

CELL = {"downlink_users": 3, "uplink_users": 2, "transmit_antennas": 4, "receive_antennas": 5}
STATES, KEPT = 40, 8


def write(path: Path, slots: int = 1, seed: int = 0, states: int = STATES, **changes) -> Path:
    """A bank of drawn channels."""
    env = FullDuplexEnv(FullDuplexConfig(**CELL), states, seed)
    state = env.state
    bank = ChannelBank(state.channels, state.gains, state.weights, state.positions, slots)
    save_bank(replace(bank, **changes), path)
    return path


@pytest.fixture
def path(tmp_path) -> Path:
    return write(tmp_path / "bank.npz")


def config(path: Path, **scenario) -> FullDuplexConfig:
    return FullDuplexConfig(**{**CELL, "channel_bank": str(path), **scenario})


def build(path: Path, num_envs: int = 6, seed: int = 0, **scenario) -> FullDuplexEnv:
    return FullDuplexEnv(config(path, **scenario), num_envs, seed)


def stored(env: FullDuplexEnv) -> CellState:
    """The fixed set of states that it shows."""
    return env.problem.cells.stored(torch.device("cpu"))


def indices(path: Path, channels: Tensor) -> set[int]:
    """Which states of the bank those are, by their uplink channels."""
    known = load_bank(path).channels.uplink
    found = (channels.unsqueeze(1) == known).flatten(2).all(-1).nonzero()
    assert len(found) == len(channels)
    return set(found[:, 1].tolist())


def shown(path: Path, env: FullDuplexEnv, slots: int = 60) -> set[int]:
    return set().union(*(indices(path, env.advance()[0].channels.uplink) for _ in range(slots)))


def everything(state: CellState) -> list[Tensor]:
    parts = (state.channels.tensors(), state.estimate.tensors(), state.gains.tensors())
    return [*(tensor for part in parts for tensor in part.values()), state.weights]


def identical(first: CellState, second: CellState) -> bool:
    return all(torch.equal(a, b) for a, b in zip(everything(first), everything(second), strict=True))


@pytest.mark.parametrize("slots", [1, 4])
def test_training_and_evaluation_share_no_state_and_use_all(tmp_path, slots):
    path = write(tmp_path / "bank.pt", slots)
    trained = shown(path, build(path))
    evaluated = indices(path, evaluation_states(config(path), 256, 0).channels.uplink)
    assert trained == set(range(STATES - KEPT))
    assert evaluated == set(range(STATES - KEPT, STATES))
    assert not {index // slots for index in trained} & {index // slots for index in evaluated}


def test_a_state_is_shown_whole(path):
    bank, state = load_bank(path), build(path).advance()[0]
    for cell in range(6):
        (index,) = indices(path, state.channels.uplink[cell : cell + 1])
        for name, tensor in bank.channels.tensors().items():
            assert torch.equal(getattr(state.channels, name)[cell], tensor[index])
        for name, tensor in bank.gains.tensors().items():
            assert torch.equal(getattr(state.gains, name)[cell], tensor[index])
    assert state.estimate is state.channels or torch.equal(state.estimate.cross, state.channels.cross)


def test_every_slot_ends_an_episode(path):
    """States follow each other at random, so no value may be carried from one to the next."""
    assert build(path).advance()[1].all()


def test_the_seed_of_an_evaluation_chooses_among_the_states_that_are_kept(path):
    first, again, other = (evaluation_states(config(path), 3, seed) for seed in (0, 0, 1))
    assert identical(first, again)
    assert not identical(first, other)
    for state in (first, other):
        assert indices(path, state.channels.uplink) <= set(range(STATES - KEPT, STATES))


def test_fewer_states_than_asked_for_are_said(path, caplog):
    notice_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        state = evaluation_states(config(path), 100, 0)
        evaluation_states(config(path), 100, 0)
    assert state.weights.shape == (KEPT, 5)
    assert [record.getMessage() for record in caplog.records] == [
        f"scenario.channel_bank={path} keeps 8 states for evaluation, fewer than the 100 asked for: "
        "all that is there is used."
    ]


def test_one_state_is_no_plural(tmp_path, caplog):
    notice_once.cache_clear()
    path = write(tmp_path / "bank.npz", states=2)
    with caplog.at_level(logging.WARNING):
        evaluation_states(config(path), 4, 0)
    assert "keeps 1 state for evaluation, fewer than the 4" in caplog.text
    with pytest.raises(ConfigError, match=r"scenario.stored_states=5 is more than the 1 state that"):
        build(path, stored_states=5)


def test_stored_states_takes_a_part_of_the_training_states(path):
    seen = [shown(path, build(path, seed=seed, stored_states=5)) for seed in (0, 0, 1)]
    assert len(seen[0]) == len(seen[2]) == 5
    assert seen[0] == seen[1] != seen[2]
    assert seen[0] | seen[2] <= set(range(STATES - KEPT))
    evaluated = evaluation_states(config(path, stored_states=5), 256, 0)
    assert identical(evaluated, evaluation_states(config(path), 256, 0))
    with pytest.raises(ConfigError, match=r"scenario.stored_states=33 is more than the 32 states that .* to train on"):
        build(path, stored_states=33)


def test_weights_of_the_bank_count_beside_those_that_are_drawn(tmp_path):
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.5]).expand(STATES, 5)
    path = write(tmp_path / "bank.npz", weights=weights)
    assert torch.equal(build(path).state.weights, weights[:6])
    assert torch.equal(evaluation_states(config(path, priority_user=1.0), 4, 0).weights, weights[:4])
    drawn = build(path, 2000, priority_user=0.5).state.weights.log() - weights[:1].log()
    assert drawn.mean(0).abs().max() < 0.05
    assert (drawn.std(0) - 0.5).abs().max() < 0.05


def test_each_state_has_one_imperfect_estimate(path):
    env = build(path, csi_error=0.2, stored_states=3)
    pairs = {}
    for _ in range(20):
        state = env.advance()[0]
        for cell in range(6):
            key = state.channels.uplink[cell].numpy().tobytes()
            pairs.setdefault(key, set()).add(state.estimate.uplink[cell].numpy().tobytes())
    assert len(pairs) == 3
    assert all(len(estimates) == 1 for estimates in pairs.values())
    many = stored(build(path, csi_error=0.2))
    error = many.estimate.downlink - math.sqrt(0.8) * many.channels.downlink
    relative = error.abs().square().mean((-1, -2)) / (0.2 * many.gains.downlink.mean(-1))
    assert relative.mean().item() == pytest.approx(1, abs=0.3)


def test_raw_gains_follow_the_powers_of_the_scenario(tmp_path):
    tiny = {name: 1e-6 * tensor for name, tensor in load_bank(write(tmp_path / "a.pt")).channels.tensors().items()}
    normalised = load_bank(tmp_path / "a.pt")
    raw = replace(normalised, channels=type(normalised.channels)(**tiny), noise_normalised=False)
    save_bank(raw, tmp_path / "raw.pt")
    weak, strong = (stored(build(tmp_path / "raw.pt", bs_power=power)) for power in (20.0, 26.0))
    ratio = 10 ** (6 / 20)
    torch.testing.assert_close(strong.channels.downlink, ratio * weak.channels.downlink, rtol=1e-4, atol=0)
    isolation = ratio * weak.channels.self_interference
    torch.testing.assert_close(strong.channels.self_interference, isolation, rtol=1e-5, atol=0)
    assert torch.equal(strong.channels.uplink, weak.channels.uplink)
    noise = -174 + 70 + 5  # dBm in 10 MHz at the base station
    expected = 10 ** ((23 - noise) / 20) * raw.channels.uplink[: STATES - KEPT]
    torch.testing.assert_close(weak.channels.uplink, expected, rtol=1e-4, atol=0)


# ------------------------------------------------------------------ continuing


@pytest.mark.parametrize("scenario", [{}, {"csi_error": 0.2}, {"stored_states": 6, "csi_error": 0.1}])
def test_a_saved_environment_continues_bit_for_bit_without_holding_the_bank(path, tmp_path, scenario):
    env = build(path, priority_user=0.3, **scenario)
    env.advance()
    torch.save(env.state_dict(), tmp_path / "env.pt")
    saved = torch.load(tmp_path / "env.pt", weights_only=True)
    assert set(saved["problem"]) == {"digest", "seed"}
    future = [env.advance()[0] for _ in range(5)]
    again = build(path, seed=9, priority_user=0.3, **scenario)
    again.load_state_dict(saved)
    assert all(identical(state, again.advance()[0]) for state in future)


def test_a_bank_that_has_changed_is_not_continued_on(path):
    env = build(path)
    saved = env.state_dict()
    write(path, seed=1)
    os.utime(path, ns=(1, 1))
    with pytest.raises(CheckpointError, match=r"bank.npz has changed since the checkpoint was written"):
        build(path).load_state_dict(saved)


# ------------------------------------------------------------------ what cannot be used


def test_a_bank_of_another_cell_is_refused_with_the_keys_to_set(path):
    for use in (build, lambda path, **scenario: evaluation_states(config(path, **scenario), 4, 0)):
        with pytest.raises(ConfigError, match=r"holds 3 \+ 2 users and 4 \+ 5 antennas, the scenario has") as caught:
            use(path, uplink_users=4, transmit_antennas=8)
        assert "set scenario.uplink_users=2 scenario.transmit_antennas=4, or give" in str(caught.value)


@pytest.mark.parametrize("slots", [1, 5])
def test_a_bank_that_cannot_be_split_is_refused(tmp_path, slots):
    path = write(tmp_path / "bank.npz", slots, states=slots)
    with pytest.raises(ConfigError, match=r"bank.npz holds one (state|episode); two are needed at least"):
        build(path)


@pytest.mark.parametrize("part", ["to train on", "kept for evaluation"])
def test_a_bank_whose_states_carry_nothing_is_refused(tmp_path, part):
    silent = slice(None, -KEPT) if part == "to train on" else slice(-KEPT, None)
    env = FullDuplexEnv(FullDuplexConfig(**CELL), STATES, 0)
    raw = env.state.channels.map(lambda tensor: 1e-6 * tensor)  # amplitude gains may be as small as they like

    def silenced(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor[silent] = 0
        return tensor

    channels = replace(raw, downlink=silenced(raw.downlink), uplink=silenced(raw.uplink))
    path = write(tmp_path / "bank.npz", channels=channels, noise_normalised=False)
    with pytest.raises(ConfigError, match=f"bank.npz: downlink and uplink are 0 in all states {part}"):
        build(path)
    one_direction = replace(raw, downlink=channels.downlink)
    build(write(tmp_path / "other.npz", channels=one_direction, noise_normalised=False))


def test_a_bank_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"scenario\.channel_bank: .*none.npz does not exist"):
        build(tmp_path / "none.npz")


def test_keys_that_a_bank_makes_void_are_said(path, tmp_path, caplog):
    notice_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        build(path, bs_power=30.0, path_loss="nlos")
        build(path, bs_power=30.0, path_loss="nlos")
    (record,) = caplog.records
    assert "decides the channels: scenario.path_loss=nlos, scenario.bs_power=30.0 changes nothing" in record.message

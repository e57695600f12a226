"""d2rl.load and d2rl.train: what a notebook does."""

from __future__ import annotations

import csv
import json
import os
from typing import Any

import numpy as np
import pytest
import torch

import d2rl
from d2rl.algorithm.decisions import DecisionRule, decide
from d2rl.common.errors import ConfigError, InputError
from d2rl.common.notices import notice_once
from d2rl.evaluation import evaluate as evaluation
from d2rl.problems.full_duplex import references
from d2rl.wireless import link_rates


@pytest.fixture(scope="module")
def policy() -> Any:
    return d2rl.load("pretrained")


@pytest.fixture
def arrays(channels) -> dict[str, np.ndarray]:
    """The same channels as a file of measurements would bring them."""
    return {name: tensor.numpy().astype(np.complex128) for name, tensor in channels.tensors().items()}


def test_arrays_tensors_and_states_get_the_same_decision(policy, channels, arrays):
    precoder, power = policy.decide(arrays, best_of=2, seed=3)
    assert isinstance(precoder, np.ndarray)
    assert (precoder.shape, power.shape) == ((16, 8, 6), (16, 4))
    for given in (channels, channels.tensors()):
        for found, expected in zip(policy.decide(given, best_of=2, seed=3), (precoder, power), strict=True):
            assert isinstance(found, torch.Tensor)
            np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_a_decision_on_a_state_is_that_of_the_evaluation(policy):
    state = policy.problem.frozen(8, 0, "cpu")
    expected = decide(policy, state, DecisionRule(), torch.Generator().manual_seed(0))
    for given in (state, state.channels):
        for found, one in zip(policy.decide(given), expected, strict=True):
            torch.testing.assert_close(found, one, atol=1e-5, rtol=1e-4)


def test_refinement_and_candidates_raise_the_rate(policy, channels):
    rates = [
        float(link_rates(channels, *policy.decide(channels, **more)).sum(-1).mean())
        for more in ({}, {"best_of": 8}, {"best_of": 8, "refine": 5})
    ]
    assert rates == sorted(rates)


@pytest.mark.parametrize("shape", ["one for each link", "one for each link and state"])
def test_links_of_weight_zero_stay_silent(policy, arrays, shape):
    weights = np.array([0, 1, 1, 1, 1, 1, 1, 1, 1, 0.0])
    given = weights if shape == "one for each link" else np.tile(weights, (16, 1))
    precoder, power = policy.decide(arrays, given)
    assert np.abs(precoder[:, :, 0]).max() == power[:, 3].max() == 0
    assert np.abs(precoder[:, :, 1:]).max() > 0


def without(name: str) -> Any:
    return lambda arrays: {key: value for key, value in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("change", "weights", "message"),
    [
        (without("cross"), None, "channels lack cross"),
        (lambda arrays: {}, None, "channels lack downlink"),
        (lambda arrays: arrays | {"gain": 1}, None, "channels hold gain, which is unknown"),
        (lambda arrays: arrays | {"uplink": [["a"]]}, None, "channels.uplink cannot be read as numbers"),
        (lambda arrays: arrays | {"uplink": arrays["uplink"][:, :, :3]}, None, "self_interference has shape"),
        (
            lambda arrays: arrays | {"downlink": arrays["downlink"].swapaxes(1, 2)},
            None,
            r"downlink has shape .*another order: numpy\.transpose\(ARRAY, \(0, 2, 1\)\) mends it",
        ),
        (
            lambda arrays: {k: np.stack([v.real, v.imag], -1) for k, v in arrays.items()},
            None,
            "must be complex, got float",
        ),
        (lambda arrays: {k: v[0] for k, v in arrays.items()}, None, r"needs 3 dimensions \(states, users, antennas\)"),
        (lambda arrays: {k: v[:0] for k, v in arrays.items()}, None, "channels hold no state"),
        (lambda arrays: {k: 1e25 * v for k, v in arrays.items()}, None, "too strong for single precision"),
        (lambda arrays: arrays | {"cross": arrays["cross"] * np.nan}, None, "NaN or infinite"),
        (lambda arrays: arrays["uplink"], None, "must be a ChannelState or a mapping"),
        (lambda arrays: arrays, [1.0, 2.0], r"weights have shape \(2,\); they must be \(10,\)"),
        (lambda arrays: arrays, -np.ones(10), "weights must be finite, none negative"),
    ],
)
def test_channels_that_cannot_be_used_are_told(policy, arrays, change, weights, message):
    with pytest.raises(InputError, match=message):
        policy.decide(change(arrays), weights)


@pytest.mark.parametrize("options", [{"best_of": 0}, {"best_of": 2.5}, {"best_of": "16"}, {"refine": -1}], ids=str)
def test_candidates_and_steps_that_cannot_be_are_told(policy, arrays, options):
    with pytest.raises(InputError, match="it must be a whole number of"):
        policy.decide(arrays, **options)


@pytest.mark.parametrize("spread", [-0.1, float("nan"), "0.2"], ids=str)
def test_a_spread_that_cannot_be_is_told(policy, arrays, spread):
    with pytest.raises(InputError, match="it must be a number of 0 or more"):
        policy.decide(arrays, best_of=2, priority_spread=spread)


def test_other_priorities_make_other_candidates(policy, channels):
    plain, spread = (policy.decide(channels, best_of=4, priority_spread=spread) for spread in (0.0, 0.5))
    assert not torch.allclose(plain[1], spread[1], atol=1e-3)
    one = policy.decide(channels)
    rate, alone = (link_rates(channels, *decision).sum(-1) for decision in (spread, one))
    assert bool((rate >= alone - 1e-3).all())  # the first candidate is made for the priorities asked for


@pytest.mark.parametrize("kind", ["half", "bfloat16", "double"])
def test_a_policy_of_another_precision_is_told(arrays, kind):
    policy = getattr(d2rl.load("pretrained"), kind)()
    with pytest.raises(InputError, match=r"a policy decides in float32; policy\.float\(\)"):
        policy.decide(arrays)
    policy.float().decide(arrays)


def test_channels_that_are_not_over_noise_are_told(policy, arrays, caplog):
    notice_once.cache_clear()
    policy.decide(arrays)
    assert not caplog.text
    policy.decide({name: 1e-6 * array for name, array in arrays.items()})
    assert "where the SNR at full power belongs" in caplog.text


@pytest.mark.parametrize(("name", "other"), [("downlink", "uplink"), ("uplink", "downlink")])
@pytest.mark.parametrize("users", [1, 4, 12])
def test_one_direction_alone_is_half_duplex(name, other, users):
    antennas = 8
    numbers = np.random.default_rng(0).standard_normal((2, 5, users, antennas))
    decision = d2rl.load("pretrained/any_load").decide({name: 30 * (numbers[0] + 1j * numbers[1])})
    power = dict(zip(("downlink", "uplink"), decision, strict=True))
    assert power[other].size == 0
    assert power[name].shape == ((5, antennas, users) if name == "downlink" else (5, users))
    assert np.abs(power[name]).reshape(5, -1).max(1).min() > 0


@pytest.mark.parametrize("given", [["conf=smoke"], {"conf": "smoke"}], ids=["list", "mapping"])
def test_what_is_no_argument_of_a_training_is_told(given):
    with pytest.raises(ConfigError, match=r"d2rl\.train\(\*LIST\)"):
        d2rl.train(given)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_training_gives_a_policy_and_leaves_the_process_alone(tiny_arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "LATENCY_SECONDS", 0.0)
    monkeypatch.setattr(references, "LIMIT", 2)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(4)
    before = torch.get_rng_state(), torch.get_num_threads(), dict(os.environ)
    run = d2rl.train(*tiny_arguments, "trainer.epochs=1", "trainer.progress=true")
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (torch.get_num_threads(), dict(os.environ))
    told, where = (
        "training default, seed 0: 1 epoch of 4 updates",
        f"in {run.path}; its metrics.csv tells how far it is",
    )
    assert capsys.readouterr().out == f"{told}, {where}\n"
    assert run.path.parent.name == "runs"
    assert json.loads((run.path / "eval.json").read_text())["policies"].keys() == run.report["policies"].keys()
    with open(run.path / "metrics.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3
    precoder, _ = run.policy.decide(run.policy.problem.frozen(3, 0, "cpu"))
    assert precoder.shape == (3, 4, 3)


def test_a_configuration_may_be_given_instead(tiny):
    with pytest.raises(ConfigError, match="several processes are started by d2rl-train"):
        d2rl.train(tiny("trainer.devices=2"))
    with pytest.raises(ConfigError, match=r"trainer\.epoch is not a key"):
        d2rl.train(tiny(), "trainer.epoch=3")

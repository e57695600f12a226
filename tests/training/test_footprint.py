"""What a run will need of memory: near the truth, and refused where it is too much."""

from __future__ import annotations

import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.common.errors import ConfigError
from d2rl.problems import load_config
from d2rl.training import footprint as module
from d2rl.training.footprint import check_footprint, footprint

CPU = torch.device("cpu")
DEFAULTS = ("scenario.downlink_users=6", "scenario.uplink_users=4", "scenario.transmit_antennas=8")


def nbytes(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        DEFAULTS,
        ("ddpg.gamma=0.5", "reward.case=designed_gdm", "action.candidates=4"),
        ("scenario.head=beamforming", "network.kind=mlp", "network.critic=numbers"),
        ("scenario.transmit_antennas=16", "scenario.receive_antennas=16"),
    ],
    ids=str,
)
def test_the_state_explorer_needs_what_is_said(tiny, fit, overrides):
    config = tiny(*overrides, "trainer.updates_per_epoch=2", "stages.state=0")
    agent, parts = D2RL(config), footprint(config)
    fit(agent)
    stays = nbytes(agent.senpnn.buffers()) + 4 * nbytes(agent.senpnn.parameters())
    said = parts["scenario.transmit_antennas and scenario.receive_antennas"]
    assert 0.5 < said / stays < 2


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("trainer.num_envs=1e6", "ddpg.replay=1e6", "action.candidates=1000"), "trainer.num_envs"),
        (("evaluation.drops=1e7", "evaluation.best_of=1e4"), "evaluation.best_of"),
        (
            ("scenario.transmit_antennas=1024", "scenario.receive_antennas=1024", "state.width=4096", "stages.state=0"),
            "scenario.transmit_antennas",
        ),
        (("scenario.stored_states=1e7", "scenario.receive_antennas=400"), "scenario.stored_states"),
        (("network.kind=mlp", "network.width=4096", "network.layers=64"), "network.width"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_with_the_largest_part(tiny, monkeypatch, overrides, key):
    monkeypatch.setattr(module, "memory_of", lambda device: 16 * 2**30)
    with pytest.raises(
        ConfigError, match=rf"needs about .* GiB of memory, .* for .*{key}.*cpu has 16.0 GiB\. Lower .*{key}"
    ):
        check_footprint(tiny(*overrides), CPU)


def test_an_evaluation_simulates_no_training_cells(tiny, monkeypatch):
    monkeypatch.setattr(module, "memory_of", lambda device: 16 * 2**30)
    check_footprint(tiny("trainer.num_envs=1e6", "ddpg.replay=1e6", "action.candidates=1000"), CPU, training=False)


def test_the_default_run_fits_into_a_gibibyte(monkeypatch):
    monkeypatch.setattr(module, "memory_of", lambda device: 2**30)
    check_footprint(load_config(["conf=full_duplex"]), CPU)


def test_this_machine_has_some_memory():
    assert module.memory_of(CPU) > 2**28

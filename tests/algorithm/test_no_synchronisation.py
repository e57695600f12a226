"""Nothing in the inner loop waits for the device: no number or shape of Python's comes from a tensor's values."""

from __future__ import annotations

import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.capturable import Waits

EVERYTHING = ("reward.case=designed_gdm", "stages.state=0", "trainer.updates_per_step=2", "ddpg.warmup_updates=0")


@pytest.mark.parametrize(
    "change",
    [
        (),
        ("reward.risk=cvar",),
        ("reward.case=designed",),
        ("reward.case=raw",),
        ("action.objective=mixed", "action.gradient_steps=2"),
        ("action.objective=flow",),
        ("action.sampler=ddim",),
        ("network.critic=numbers",),
        ("network.kind=mlp", "network.critic=numbers"),
        ("scenario.head=beamforming",),
        ("scenario.head=switching", "scenario.loads=2+2"),
        ("scenario.csi_error=0.1",),
        ("scenario.rician=3",),
        ("scenario.stored_states=20",),
        ("ddpg.gamma=0.5",),
        ("ddpg.analytic=true",),
        ("stages.action=null",),
    ],
    ids=lambda change: ",".join(change) or "everything",
)
def test_an_interaction_and_an_update_never_wait_for_the_device(tiny, fit, change):
    found = []

    def watch(trainer, agent) -> None:
        if agent.updates < 4 or found:  # calibration may look
            return
        agent.chi = 1.0
        for name in agent.stages:
            if getattr(agent.config.stages, name) is not None:
                agent.begin_stage(name)
        with Waits() as waits:
            agent.training_step(0, 0)
        found.append(waits.found)

    fit(D2RL(tiny(*EVERYTHING, *change)), watch)
    assert found == [[]]


@pytest.mark.parametrize(
    "look",
    [
        lambda tensor: float(tensor.sum()),
        lambda tensor: bool((tensor > 0).any()),
        lambda tensor: tensor[tensor > 0],
        lambda tensor: tensor.nonzero(),
        lambda tensor: range(tensor.sum().int()),
        lambda tensor: torch.linalg.solve(tensor.diag(), tensor),
        lambda tensor: tensor[[0, 2]],
    ],
)
def test_the_guard_sees_what_waits(look):
    with Waits() as waits:
        look(torch.ones(3))
    assert waits.found

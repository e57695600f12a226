"""Mixed precision: low for the networks, none for the physics, and losses that are not finite are counted."""

from __future__ import annotations

import re

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from d2rl.algorithm.agent import D2RL
from d2rl.problems.full_duplex.observation import observe
from d2rl.problems.full_duplex.simulator import decided_rates
from d2rl.training.callbacks import MixedPrecision

EVERYTHING = ("stages.state=0", "reward.case=designed_gdm", "ddpg.warmup_updates=0")


def build(tiny, *overrides: str) -> D2RL:
    L.seed_everything(0, verbose=False)
    return D2RL(tiny(*overrides))


class OutputTypes(Callback):
    """Data types that the networks compute in, once the first update has set their scale."""

    def __init__(self):
        self.seen = {}

    def on_train_batch_start(self, trainer, agent, batch, batch_index):
        if batch_index == 0:
            return
        for name in ("actor.encoder", "critic.transition", "aenpnn.encoder", "renpnn.transition"):
            agent.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, name=name: self.seen.setdefault(name, set()).add(output.dtype)
            )


@pytest.mark.parametrize(("precision", "expected"), [("bf16", torch.bfloat16), ("32", torch.float32)])
def test_networks_compute_in_the_precision_asked_for(tiny, fit, precision, expected):
    agent, types = build(tiny, *EVERYTHING), OutputTypes()
    fit(agent, MixedPrecision(precision), types)
    agent.stages["action"] = True
    fit(agent, MixedPrecision(precision), types)
    assert types.seen == {name: {expected} for name in types.seen}
    assert len(types.seen) == 4


@pytest.mark.parametrize("kind", ["link_graph", "mlp"])
def test_bf16_trains_to_finite_weights_in_fp32(tiny, fit, kind):
    agent = build(tiny, *EVERYTHING, f"network.kind={kind}")
    agent.stages, agent.chi = {"action": True, "reward": True, "state": True}, 0.5
    before = [p.detach().clone() for p in agent.parameters()]
    precision = MixedPrecision("bf16")
    fit(agent, precision, epochs=2)
    assert precision.skipped == 0
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in agent.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.parameters(), strict=True))


def test_physics_stays_in_full_precision(tiny, fit):
    agent = build(tiny, *EVERYTHING)
    agent.stages["action"] = True
    fit(agent, MixedPrecision("bf16"))
    ring = agent.replay
    stored = ring.form.with_tensors({name: tensor[: len(ring)] for name, tensor in ring.storage.items()})
    assert {tensor.dtype for tensor in stored.tensors().values()} == {torch.float32, torch.complex64}
    seen = stored.observation
    rates = decided_rates(agent.problem.head, seen.known.channels, stored.action)
    assert torch.allclose(stored.utility, rates, atol=1e-4)
    for name, tensor in observe(seen.known.channels, seen.weights).tensors().items():
        assert torch.allclose(seen.tensors()[name], tensor, atol=1e-4), name


def test_the_simulator_is_differentiated_in_full_precision(tiny, fit):
    agent, values = build(tiny, "ddpg.analytic=true"), []

    def compare(_, agent):
        observation = agent.problem.observe(agent.world.state)
        action = torch.rand(8, 3, 10, generator=torch.Generator().manual_seed(0)) * 2 - 1
        values.append(agent.value(observation, action))
        with agent.autocast():
            assert torch.is_autocast_enabled("cpu")
            values.append(agent.value(observation, action))

    fit(agent, MixedPrecision("bf16"), compare)
    assert torch.equal(values[0], values[1])


def test_skipped_steps_are_counted_and_reported(tiny, fit, caplog):
    agent, precision = build(tiny, "trainer.updates_per_epoch=6"), MixedPrecision()

    def poison(_, agent):
        agent.replay.storage["utility"].fill_(float("nan") if agent.updates < 6 else 1.0)

    pattern = re.compile(r"(\d+) optimizer steps .*not finite.* skipped \((\d+) so far\)")
    fit(agent, precision, poison)
    counts = [match.groups() for one in caplog.records if (match := pattern.search(one.getMessage()))]
    assert len(counts) == 2
    assert precision.skipped == int(counts[1][1]) == sum(int(now) for now, _ in counts)
    other = MixedPrecision()
    other.load_state_dict(precision.state_dict())
    assert other.skipped == precision.skipped

"""Compiled losses give the numbers of plain ones.

The compiled parts are run as they were traced (``aot_eager``), which needs no compiler; kernels are slow to make.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor
from torch.compiler import reset

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.compiled import check_compiler
from d2rl.commands.train_eval import train_command
from d2rl.common.errors import ConfigError
from d2rl.problems import check_config
from d2rl.training.callbacks import MixedPrecision, StagedIntegration

CPU = torch.device("cpu")


def compiler_here() -> bool:
    try:
        check_compiler(CPU)
    except ConfigError:
        return False
    return True


@pytest.fixture
def traced(monkeypatch):
    """``torch.compile`` makes no kernels."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    reset()


def trained(fit: Callable[..., Any], config: Any, epochs: int = 2) -> tuple[D2RL, dict[str, float]]:
    """An agent after training with the callbacks that steer it, and the means of what its losses logged."""
    agent, means = D2RL(config), {}
    steering = StagedIntegration(config.stages), MixedPrecision(config.trainer.precision)
    fit(agent, *steering, LambdaCallback(on_fit_end=lambda *_: means.update(agent.means.collect())), epochs=epochs)
    return agent, means


def same(fit: Callable[..., Any], tiny: Callable[..., Any], *overrides: str, tolerance: float = 1e-4) -> D2RL:
    """Train with compiled losses and without: weights, random numbers and metrics must agree."""
    plain, logged = trained(fit, tiny(*overrides))
    compiled, also = trained(fit, tiny(*overrides, "trainer.compile=true"))
    torch.testing.assert_close(compiled.state_dict(), plain.state_dict(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(also, logged, rtol=100 * tolerance, atol=100 * tolerance)
    assert torch.equal(compiled.generator.get_state(), plain.generator.get_state())
    assert compiled.skipped_steps() == 0
    return compiled


def test_compiled_losses_train_the_same_agent(tiny, fit, traced):
    same(fit, tiny, "stages.action=null", "stages.reward=null", "stages.state=null", "trainer.updates_per_epoch=2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "tolerance"),
    [
        (("action.objective=mixed", "reward.case=designed_gdm"), 1e-4),
        (("stages.action=1", "stages.reward=1", "stages.state=1", "action.gradient_steps=2"), 1e-4),
        (("trainer.precision=bf16", "stages.state=null"), 1e-2),
    ],
    ids=["everything from the start", "stages that begin later", "low precision"],
)
def test_they_do_with_explorers_stages_and_in_low_precision(tiny, fit, traced, overrides, tolerance):
    same(fit, tiny, *overrides, tolerance=tolerance)


@pytest.mark.slow
def test_kernels_give_the_gradients_of_plain_losses(tiny):
    """Weights drift apart sooner: Adam makes a step of full length out of a gradient that is all rounding."""
    if not compiler_here():
        pytest.skip("no C++ compiler")
    reset()
    plain, compiled = (explored(tiny("stages.state=null", *more)) for more in ((), ("trainer.compile=true",)))
    for name in ("critic", "aenpnn", "renpnn"):
        for expected, found in zip(gradients(plain, name), gradients(compiled, name), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def explored(config: Any) -> D2RL:
    """An agent in all of its stages that has seen some slots."""
    agent = D2RL(config)
    agent.on_fit_start()
    for name in ("action", "reward"):
        agent.begin_stage(name)
    for _ in range(4):
        agent.interact()
    return agent


def gradients(agent: D2RL, name: str) -> list[Tensor]:
    """Of a learner's loss, by weight."""
    learner = agent.learners[name]
    weights = [weight for weight in learner.module.parameters() if weight.requires_grad]
    found = torch.autograd.grad(learner.loss(agent.draw(learner.batch)), weights, allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("trainer.cuda_graphs=true", "trainer.accelerator=gpu"), "and trainer.cuda_graphs=true exclude each other"),
        (("trainer.devices=2",), "is for one process without DDP, and trainer.devices x trainer.nodes is 2"),
        (("trainer.strategy=ddp",), "trainer.strategy=ddp"),
    ],
)
def test_what_compilation_does_not_go_with_is_refused(tiny, overrides, words):
    with pytest.raises(ConfigError, match=r"trainer\.compile=true") as error:
        check_config(tiny("trainer.compile=true", *overrides))
    assert words in str(error.value)


def test_without_a_compiler_a_run_ends_before_it_begins(tiny_arguments, tmp_path, monkeypatch):
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    reset()
    with config.patch({"cpp.cxx": (str(tmp_path / "missing-g++"),)}), pytest.raises(ConfigError) as error:
        train_command([*tiny_arguments, "trainer.compile=true", f"run_dir={tmp_path / 'run'}"])
    assert str(error.value).startswith("config error: trainer.compile=true needs a C++ compiler")
    assert "set trainer.compile=false" in str(error.value)
    assert not (tmp_path / "run").exists()

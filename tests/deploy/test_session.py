"""Decisions by ONNX Runtime are those of torch, random numbers included."""

from __future__ import annotations

from copy import copy

import pytest
import torch

import d2rl
from d2rl.algorithm.decisions import DecisionRule
from d2rl.algorithm.policy import Policy
from d2rl.common.errors import ConfigError, InputError
from d2rl.deploy.export import PARITY
from d2rl.deploy.session import SessionPolicy, Sessions
from d2rl.evaluation.evaluate import policy_of
from d2rl.problems.full_duplex.simulator import evaluation_states
from d2rl.wireless import link_rates


@pytest.mark.slow
@pytest.mark.parametrize(
    ("diffusion", "change", "rule"),
    [
        (True, (), DecisionRule(seed=3)),
        (False, (), DecisionRule()),
        (True, (), DecisionRule(best_of=3)),
        (True, ("action.calm_first=true",), DecisionRule(best_of=3)),
        (True, ("action.calm_first=true",), DecisionRule(best_of=3, priority_spread=0.3)),
        (True, ("action.objective=flow", "action.calm_first=true"), DecisionRule(best_of=3)),
    ],
)
def test_a_session_decides_as_torch_does(tiny, diffusion, change, rule):
    pytest.importorskip("onnxruntime")
    policy = Policy(tiny(*change), diffusion).eval()
    decide, expected = SessionPolicy(policy, rule), policy_of(policy, rule)
    for batch in (1, 5):
        state = evaluation_states(policy.config.scenario, batch, 0)
        for one, two in zip(decide(state), expected(state), strict=True):
            torch.testing.assert_close(one, two, atol=PARITY, rtol=0)


def test_a_rule_that_is_not_for_export_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"refine and evaluation.noise cannot be exported"):
        SessionPolicy(Policy(tiny(), True), DecisionRule(refine=2))


def test_decide_by_sessions_is_decide_in_torch(tiny, channels):
    """Priorities, arrays, seeds and refinement are those of the call in torch."""
    pytest.importorskip("onnxruntime")
    slow = Policy(tiny(), True).eval()
    larger, channels = channels, evaluation_states(slow.config.scenario, 5, 0).channels
    fast = copy(slow)
    fast.runtime = Sessions(slow)
    weights = [2.0, *[1.0] * (channels.links - 1)]
    arrays = {name: tensor.numpy() for name, tensor in channels.tensors().items()}
    for given in (arrays, channels):
        for one, two in zip(fast.decide(given, weights, seed=3), slow.decide(given, weights, seed=3), strict=True):
            assert type(one) is type(two)
            torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(two), atol=PARITY, rtol=0)
    refined, plain = (link_rates(channels, *fast.decide(channels, refine=count)).sum() for count in (3, 0))
    assert refined > plain
    with pytest.raises(InputError, match="ascend needs gradients"):
        fast.decide(channels, ascend=1)
    with pytest.raises(InputError, match="decides for the cell that it was loaded for"):
        fast.decide(larger)


def test_a_runtime_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="choose torch or onnx"):
        d2rl.load(runtime="tensorrt")


def test_rounds_are_refused_for_onnx():
    pytest.importorskip("onnxruntime")
    with pytest.raises(ConfigError, match="asks the policy in rounds"):
        d2rl.load("pretrained", "scenario.objective=energy", runtime="onnx")

"""Decisions by ONNX Runtime are those of torch, random numbers included."""

from __future__ import annotations

import pytest
import torch

from d2rl.algorithm.decisions import DecisionRule
from d2rl.algorithm.policy import Policy
from d2rl.common.errors import ConfigError
from d2rl.deploy.export import PARITY
from d2rl.deploy.session import SessionPolicy
from d2rl.evaluation.evaluate import policy_of
from d2rl.problems.full_duplex.simulator import evaluation_states


@pytest.mark.slow
@pytest.mark.parametrize(
    ("diffusion", "calm", "rule"),
    [
        (True, False, DecisionRule(seed=3)),
        (False, False, DecisionRule()),
        (True, False, DecisionRule(best_of=3)),
        (True, True, DecisionRule(best_of=3)),
        (True, True, DecisionRule(best_of=3, priority_spread=0.3)),
    ],
)
def test_a_session_decides_as_torch_does(tiny, diffusion, calm, rule):
    pytest.importorskip("onnxruntime")
    policy = Policy(tiny(f"action.calm_first={calm}"), diffusion).eval()
    decide, expected = SessionPolicy(policy, rule), policy_of(policy, rule)
    for batch in (1, 5):
        state = evaluation_states(policy.config.scenario, batch, 0)
        for one, two in zip(decide(state), expected(state), strict=True):
            torch.testing.assert_close(one, two, atol=PARITY, rtol=0)


def test_a_rule_that_is_not_for_export_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"refine and evaluation.noise cannot be exported"):
        SessionPolicy(Policy(tiny(), True), DecisionRule(refine=2))

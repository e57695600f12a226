"""Decisions by ONNX Runtime from Python: the call of a policy in torch, in a fraction of its time for one cell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2rl.algorithm.decisions import DecisionRule, diverse_weights
from d2rl.algorithm.policy import Policy
from d2rl.common.errors import ConfigError
from d2rl.deploy.export import arrays, make_session, require_libraries, to_bytes
from d2rl.deploy.real_decision import RealDecision, real
from d2rl.problems.base import Decision, stream


class SessionPolicy:
    """Decides as ``policy_of(policy, rule)`` does, up to rounding, for any batch, on one thread of the CPU.

    It is made once, which takes tens of seconds; then a decision for one cell takes less than a millisecond, most of
    which in torch goes into starting operators. For many cells at once torch is as fast.

    Example::

        policy, _ = load_policy("pretrained", [])
        decide = SessionPolicy(policy, DecisionRule())
        precoder, uplink_power = decide(state)

    :param policy: of a problem whose decisions can be exported, for its numbers of users and antennas
    :param rule: without refinement or noise
    :raises ConfigError: the extra ``export`` is not installed, or a rule that is not for export
    """

    def __init__(self, policy: Policy, rule: DecisionRule):
        if rule.ascend or rule.refine or rule.noise:
            raise ConfigError("ascend, refine and evaluation.noise cannot be exported; leave them out.")
        self.rule, self.generator = rule, torch.Generator()
        runtime = require_libraries()
        decision: Any = RealDecision(policy, rule.best_of)
        self.decision, self.steps = decision, decision.policy.schedule.steps if decision.diffusion else 0
        with torch.no_grad():
            further = list(decision.example(1).values())[len(decision.state) :]
            self.complex = [part.is_complex() for part in decision.decide(decision.state, *further)]
        self.session = make_session(runtime, to_bytes(decision))

    def __call__(self, state: Any) -> Decision:
        """The decision of B states, such as precoder [B, N_t, K_D] and uplink power [B, K_U]."""
        found = self.session.run(list(self.decision.outputs), arrays(self._inputs(state)))
        parts = zip(map(torch.from_numpy, found), self.complex, strict=True)
        return tuple(torch.view_as_complex(part) if pairs else part for part, pairs in parts)

    def _inputs(self, state: Any) -> dict[str, Tensor]:
        """Inputs by name; the random numbers are those of torch's decision, in its order."""
        rule, decision, problem = self.rule, self.decision, self.decision.problem
        self.generator.manual_seed(stream(f"decision/{rule.seed}"))
        inputs = {name: real(tensor) for name, tensor in problem.known(state).items()}
        spread = rule.priority_spread if decision.several else 0.0
        if decision.several:
            inputs["proposal_weights"] = state.weights.unsqueeze(1).expand(-1, rule.best_of, -1)
        if spread:
            drawn = diverse_weights(state.weights, problem.layout, rule.best_of, spread, self.generator)
            inputs["proposal_weights"] = drawn
        if self.steps:
            shape = self.steps, state.batch, rule.best_of, problem.layout.entities, problem.layout.width
            noise = torch.randn(shape, generator=self.generator).permute(1, 2, 0, 3, 4)
            if decision.policy.config.calm_first:  # under other weights every candidate is the first of its chain
                noise[:, : None if spread else 1].zero_()
            inputs["noise"] = noise
        return inputs

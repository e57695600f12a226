"""Decisions by ONNX Runtime from Python: the call of a policy in torch, in a fraction of its time for one cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from d2rl.algorithm.decisions import DecisionRule, diverse_weights
from d2rl.algorithm.policy import Policy
from d2rl.common.errors import ConfigError, InputError
from d2rl.deploy.export import arrays, make_session, require_libraries, require_one_pass, to_bytes
from d2rl.deploy.pretrained import load_policy
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
        self.decision, self.noise_rows = decision, decision.policy.noise_rows if decision.diffusion else 0
        with torch.no_grad():
            further = list(decision.example(1).values())[len(decision.state) :]
            self.complex = [part.is_complex() for part in decision.decide(decision.state, *further)]
        self.session = make_session(runtime, to_bytes(decision))

    def __call__(self, state: Any, seed: int | None = None) -> Decision:
        """The decision of B states, such as precoder [B, N_t, K_D] and uplink power [B, K_U].

        :param seed: of the candidates; None: that of the rule
        :raises InputError: a cell of another size
        """
        self.generator.manual_seed(stream(f"decision/{self.rule.seed}") if seed is None else seed)
        found = self.session.run(list(self.decision.outputs), arrays(self._inputs(state)))
        parts = zip(map(torch.from_numpy, found), self.complex, strict=True)
        return tuple(torch.view_as_complex(part) if pairs else part for part, pairs in parts)

    def _inputs(self, state: Any) -> dict[str, Tensor]:
        """Inputs by name; the random numbers are those of torch's decision, in its order."""
        rule, decision, problem = self.rule, self.decision, self.decision.problem
        known = problem.known(state)
        if any(known[name].shape[1:] != like.shape[1:] for name, like in decision.state.items()):
            raise InputError(
                f'with runtime="onnx" a policy decides for the cell that it was loaded for, {problem}; for another one '
                "load it with that cell's scenario.downlink_users and so on, or without runtime."
            )
        inputs = {name: real(tensor) for name, tensor in known.items()}
        spread = rule.priority_spread if decision.several else 0.0
        if decision.several:
            inputs["proposal_weights"] = state.weights.unsqueeze(1).expand(-1, rule.best_of, -1)
        if spread:
            drawn = diverse_weights(state.weights, problem.layout, rule.best_of, spread, self.generator)
            inputs["proposal_weights"] = drawn
        if self.noise_rows:
            shape = self.noise_rows, state.batch, rule.best_of, problem.layout.entities, problem.layout.width
            noise = torch.randn(shape, generator=self.generator).permute(1, 2, 0, 3, 4)
            if decision.policy.config.calm_first:  # under other weights every candidate is the first of its chain
                noise[:, : None if spread else 1].zero_()
            inputs["noise"] = noise
        return inputs


class Sessions:
    """What makes the decisions of a policy that was loaded with ``runtime="onnx"``.

    Each number and spread of candidates has a session of its own, made when it is first asked for.

    :param policy: on the CPU, in single precision
    :raises ConfigError: the extra ``export`` is not installed, or decisions that cannot be exported
    """

    def __init__(self, policy: Policy):
        require_libraries()
        require_one_pass(policy)
        self.policy, self.made = policy, dict[DecisionRule, SessionPolicy]()

    def __call__(self, state: Any, rule: DecisionRule) -> Decision:
        """The decision of B states, as of :func:`d2rl.algorithm.decisions.decide`; refining iterations are torch's.

        :raises InputError: steps up the gradient, or a cell of another size
        """
        problem: Any = self.policy.problem
        if rule.ascend:
            raise InputError('ascend needs gradients, which runtime="onnx" has not; load the policy without it.')
        if hasattr(problem, "notice_priorities"):
            problem.notice_priorities(state)
        kind = replace(rule, refine=0, seed=0)
        session = self.made.get(kind)
        if session is None:
            session = self.made[kind] = SessionPolicy(self.policy, kind)
        decision = session(state, rule.seed)
        return problem.refine(problem.observe(state), decision, rule.refine) if rule.refine else decision


def load_for_sessions(policy: str, overrides: Sequence[str], runtime: str) -> Policy:
    """A policy whose decisions ONNX Runtime makes: see :func:`d2rl.load`.

    :raises ConfigError: another runtime, one that is not installed, or decisions that cannot be exported
    """
    if runtime != "onnx":
        raise ConfigError(f"runtime={runtime!r} is unknown; choose torch or onnx.")
    loaded, _ = load_policy(policy, [*overrides, "trainer.accelerator=cpu", "trainer.precision=32"])
    loaded.runtime = Sessions(loaded)
    return loaded

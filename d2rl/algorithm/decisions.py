"""From proposed actions to one decision: the best of several candidates, refined where that is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from d2rl.algorithm.ascent import ascend, chosen_of
from d2rl.algorithm.policy import Proposer
from d2rl.common.errors import InputError
from d2rl.config.defaults import RunConfig
from d2rl.problems.base import Decision, Layout, Observation


@dataclass(frozen=True)
class DecisionRule:
    """How an agent's proposals become one decision.

    :param best_of: N candidates, of which the known channels' closed-form weighted rate picks one
    :param ascend: steps of that action up the gradient of the same rate
    :param refine: K iterations of the problem's own local search from there, which can only raise that rate
    :param priority_spread: candidates after the first are made for link weights changed at random by a
        log-normal factor of this spread, per direction and per link (0: the asked weights for all)
    :param noise: candidates after the first get Gaussian noise of this deviation (a control)
    :param seed: of the proposals' noise
    :raises InputError: numbers that cannot be
    """

    best_of: int = 1
    ascend: int = 0
    refine: int = 0
    priority_spread: float = 0.0
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("best_of", 1), ("ascend", 0), ("refine", 0)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < low:
                raise InputError(f"{name}={value!r} cannot be; it must be a whole number of {low} at least.")
        if not isinstance(self.priority_spread, Real) or not 0 <= self.priority_spread < float("inf"):
            raise InputError(f"priority_spread={self.priority_spread!r} cannot be; it must be a number of 0 or more.")


def decision_rule(config: RunConfig) -> DecisionRule:
    """How decisions are made in evaluations."""
    e = config.evaluation
    return DecisionRule(e.best_of, e.ascend, e.refine, e.priority_spread, e.noise)


@torch.inference_mode()
def decide(policy: Proposer, state: Any, rule: DecisionRule, generator: torch.Generator) -> Decision:
    """The decision of B states on what is known of them; no gradient passes.

    :raises InputError: where it is to be refined, channels or weights that cannot be
    """
    problem: Any = policy.problem
    if hasattr(problem, "notice_priorities"):
        problem.notice_priorities(state)
    observation, count = problem.observe(state), rule.best_of
    objective = getattr(problem, "objective", None)
    if objective is not None and not objective.plain:
        decision = decide_in_rounds(policy, observation, count, generator)
        return problem.refine(observation, decision, rule.refine) if rule.refine else decision
    if rule.priority_spread and count > 1:
        weights = diverse_weights(observation.weights, observation.layout, count, rule.priority_spread, generator)
        action = policy.propose(problem.with_priorities(observation, weights), 1, generator)
        action = action.reshape(observation.batch, count, -1)
    else:
        action = policy.propose(observation, count, generator)
    if rule.noise and count > 1:
        noise = rule.noise * torch.randn(action.shape, generator=generator, device=action.device)
        noise[:, 0] = 0
        action = (action + noise).clamp(-1, 1)
    if rule.ascend:
        decision = ascend(problem, observation, best_action(problem, observation, action), rule.ascend)
    else:
        decision = best_decision(problem, observation, action)
    return problem.refine(observation, decision, rule.refine) if rule.refine else decision


def decide_in_rounds(policy: Proposer, observation: Observation, count: int, generator: torch.Generator) -> Decision:
    """The best decision by the problem's objective of some rounds, in each of which the policy is asked again: with
    more priority for the entities that fell short, or as if its powers were lower.

    :param count: candidates of each round
    """
    problem: Any = policy.problem
    objective, weights = problem.objective, observation.weights
    rows, multipliers = torch.arange(len(weights), device=weights.device), torch.zeros_like(weights)
    best: Decision = None
    highest = torch.full_like(weights[:, 0], -torch.inf)
    for turn in range(objective.rounds):
        level = objective.power_level(turn)
        weaker = problem.at_power(observation, level)
        asked = problem.with_priorities(weaker, objective.priorities(multipliers, weights).unsqueeze(1))
        action = policy.propose(asked, count, generator)
        decision = problem.lowered(problem.decode(weaker, action), level)
        utility = problem.utility(observation, decision)
        score, chosen = objective.score(utility, weights.unsqueeze(1), decision).max(-1)
        decision = tuple(part[rows * count + chosen] for part in decision)
        better = score > highest
        highest = torch.maximum(score, highest)
        best = decision if best is None else chosen_of(better, decision, best)
        multipliers = objective.step(multipliers, utility[rows, chosen], weights)
    return best


def best_decision(problem: Any, observation: Observation, action: Tensor) -> Decision:
    """The decision of one of M actions for each state, the best by weighted utility on what is known.

    :param action: [B, M, size]
    """
    decision, count = problem.decode(observation, action), action.shape[1]
    if count == 1:
        return decision
    best = best_candidate(problem, observation, decision)
    chosen = torch.arange(best.shape[0], device=best.device) * count + best
    return tuple(part[chosen] for part in decision)


def best_action(problem: Any, observation: Observation, action: Tensor) -> Tensor:
    """The action of :func:`best_decision`, [B, 1, size]."""
    if action.shape[1] == 1:
        return action
    best = best_candidate(problem, observation, problem.decode(observation, action))
    return torch.take_along_dim(action, best[:, None, None], dim=1)


def best_candidate(problem: Any, observation: Observation, decision: Decision) -> Tensor:
    """Which of M decisions of each state has the best weighted utility on what is known, [B]."""
    utility = problem.utility(observation, decision)
    return (utility * observation.weights.unsqueeze(1)).sum(-1).argmax(-1)


def diverse_weights(weights: Tensor, layout: Layout, count: int, spread: float, generator: torch.Generator) -> Tensor:
    """``count`` versions of priorities [B, K], the first as asked: [B, count, K]."""
    batch, entities = weights.shape
    kinds = torch.randn(batch, count, len(layout.counts), generator=generator, device=weights.device)
    sizes = torch.tensor(layout.counts, device=weights.device)
    factor = kinds.repeat_interleave(sizes, dim=-1)
    factor = factor + torch.randn(batch, count, entities, generator=generator, device=weights.device)
    factor[:, 0] = 0
    return weights.unsqueeze(1) * torch.exp(spread * factor)

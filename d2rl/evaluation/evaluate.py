"""Decisions and their worth on a frozen set of drops, beside the references."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from d2rl.algorithm.decisions import DecisionRule, decide
from d2rl.algorithm.policy import Proposer
from d2rl.common.host import left_as_found
from d2rl.common.notices import notice_once
from d2rl.config.defaults import Config, RunConfig
from d2rl.evaluation.episodes import EpisodeEvaluation, Policy
from d2rl.problems import settings_of
from d2rl.problems.base import Benchmarked, Decision, stream
from d2rl.problems.full_duplex.checks import link_weights

AGENT, BEST_OF = "d2rl", 16  # name of the agent among the policies; candidates of its second line
AGENT_BEST = f"{AGENT} best of {BEST_OF}"
KEPT = 256  # drops whose decisions are kept beside the rates of all
SPREADS = 3  # of the log weight: what lies further out is hardly seen in training
LATENCY_REPEATS = 30
LATENCY_SECONDS = 2.0  # fewer repeats of what takes longer


@dataclass(frozen=True)
class Outcome:
    """What a policy did on the frozen drops.

    :param utility: [B, K], of every drop
    :param decision: of the first ``KEPT`` drops
    """

    utility: Tensor
    decision: Decision


def policy_of(proposer: Proposer, rule: DecisionRule) -> Policy:
    """A trained policy as one that gives the same decisions each time it is asked from the start."""
    generator = torch.Generator(proposer.device)

    def policy(state: Any) -> Decision:
        generator.manual_seed(stream(f"decision/{rule.seed}"))
        return decide(proposer, state, rule, generator)

    return policy


def score_agent(
    proposer: Any, evaluation: Evaluation | EpisodeEvaluation, rule: DecisionRule, references: bool = True
) -> dict[str, Any]:
    """Score a policy as asked, and with many candidates where nothing else was asked; the content of eval.json.

    Decisions are timed on ``trainer.threads`` of the policy's configuration, whoever asks.

    :param proposer: a policy or a whole agent
    :param references: time the references' decisions too
    """
    proposer.eval()
    rules = {AGENT: rule}
    if rule == DecisionRule() and isinstance(evaluation, Evaluation):
        rules[AGENT_BEST] = DecisionRule(best_of=BEST_OF, priority_spread=trained_spread(proposer))
    with left_as_found(proposer.config.trainer.threads):
        for name, one in rules.items():
            evaluation.score(name, policy_of(proposer, one), latency=True)
        if isinstance(evaluation, EpisodeEvaluation):
            evaluation.score_references()
            if evaluation.episodic:
                for name, policy in (evaluation.references | {AGENT: policy_of(proposer, rule)}).items():
                    evaluation.policies[name]["latency_ms"] = latency(policy, evaluation.first(), proposer.device)
        else:
            evaluation.score_references()
            for name, policy in evaluation.references.items():
                if references and getattr(policy, "timed", True):
                    evaluation.policies[name]["latency_ms"] = evaluation.latency(policy)
        return evaluation.report()


def make_evaluation(config: RunConfig, problem: Any, device: torch.device) -> Evaluation | EpisodeEvaluation:
    """The evaluation that fits a problem: on frozen states where it has references on them, else over episodes.

    :param config: states or episodes, seed, and the priorities asked for
    """
    e = config.evaluation
    if not isinstance(problem, Benchmarked):
        return EpisodeEvaluation(problem, e.drops, e.seed, device, e.references)
    asked = link_weights(config) if isinstance(config, Config) else None
    return Evaluation(problem, e.drops, e.seed, device, None if asked is None else torch.tensor(asked))


def trained_spread(proposer: Any) -> float:
    """The spread of priorities that a policy was trained on, 0 where it knows none."""
    settings = settings_of(proposer.config)
    return max(getattr(settings, "priority_direction", 0.0), getattr(settings, "priority_user", 0.0))


class Evaluation:
    """A frozen evaluation set with the rates that the references reach on it.

    Example::

        evaluation = Evaluation(problem, drops=256, seed=0)
        result = evaluation.score("d2rl", policy_of(agent, DecisionRule(best_of=16)))

    :param problem: with references
    :param drops: number of evaluation states
    :param seed: which of them
    :param device: where they are evaluated
    :param weights: [K], priorities asked for; default 1
    """

    def __init__(
        self,
        problem: Benchmarked,
        drops: int,
        seed: int,
        device: str | torch.device = "cpu",
        weights: Tensor | None = None,
    ):
        self.problem, self.metric = problem, problem.metric
        self.state = problem.frozen(drops, seed, device)
        if weights is not None:
            self.state = replace(self.state, weights=weights.to(self.state.weights).expand_as(self.state.weights))
        self.policies: dict[str, dict[str, float]] = {}
        self.outcomes: dict[str, Outcome] = {}
        known = problem.references()
        self.references = {name: policy for name, policy in known.items() if drops <= (_most(policy) or drops)}
        for name in known.keys() - self.references.keys():
            notice_once(f"{name} is left out: it is computed for {_most(known[name])} drops at most, not {drops}")
        for name in problem.anchors:
            self.score(name, self.references[name])
        self.floor, self.reference = (self.policies[name][self.metric] for name in problem.anchors)
        for metrics in self.policies.values():
            self._compare(metrics)

    def score_references(self) -> None:
        """Score those that have not been: a training needs the two ends of the gap alone."""
        for name, policy in self.references.items():
            if name not in self.policies:
                self.score(name, policy)

    def judge(self, policy: Policy) -> dict[str, float]:
        """Metrics of a policy."""
        return self._measured(policy(self.state))[1]

    @torch.inference_mode()
    def score(self, name: str, policy: Policy, latency: bool = False) -> dict[str, float]:
        """Metrics of a policy, kept under ``name`` with its outcome; ``latency`` adds the median ms of one decision."""
        decision = policy(self.state)
        utility, metrics = self._measured(decision)
        self.outcomes[name] = Outcome(utility.cpu(), tuple(part[:KEPT].cpu().clone() for part in decision))
        if latency:
            metrics["latency_ms"] = self.latency(policy)
        self.policies[name] = metrics
        return metrics

    def _measured(self, decision: Decision) -> tuple[Tensor, dict[str, float]]:
        """Utility [B, K] that decisions really reach, and their metrics."""
        utility = self.problem.measure(self.state, decision).squeeze(1)
        metrics = self.problem.metrics(utility, self.state.weights, decision)
        return utility, self._compare(metrics) if hasattr(self, "reference") else metrics

    def bound(self) -> float:
        """Mean of what nothing can pass."""
        return float(self.problem.bound(self.state).mean())

    def latency(self, policy: Policy) -> float:
        """Median milliseconds of one decision for one cell; a reference that is kept is found anew."""
        return latency(getattr(policy, "fresh", policy), self.state[:1], self.state.weights.device)

    def report(self) -> dict[str, Any]:
        """Content of eval.json."""
        self.score_references()
        return {
            "scenario": vars(self.problem.config),
            "drops": self.state.weights.shape[0],
            "metric": self.metric,
            "unit": self.problem.unit,
            "anchors": list(self.problem.anchors),
            "shown": list(self.problem.shown),
            **({"units": units} if (units := getattr(self.problem, "units", None)) else {}),
            "interference_free_bound": self.bound(),
            "policies": self.policies,
        }

    def _compare(self, metrics: dict[str, float]) -> dict[str, float]:
        reached = metrics[self.metric]
        metrics[f"{self.problem.anchors[1]}_ratio"] = ratio(reached, self.reference)
        metrics["gap_closed"] = ratio(reached - self.floor, self.reference - self.floor)
        return metrics


def _most(policy: Policy) -> int | None:
    """Drops that a reference is made for; None: any number."""
    return getattr(policy, "most", None)


def ratio(value: float, reference: float) -> float:
    """``value / reference``; NaN, which is unknown, where the reference is 0."""
    return value / reference if reference else math.nan


@torch.inference_mode()
def latency(policy: Policy, state: Any, device: torch.device) -> float:
    """Median milliseconds of a policy's decision for a state, warm-up left out."""
    times: list[float] = []
    while len(times) < LATENCY_REPEATS + 3 and (len(times) < 5 or sum(times) < LATENCY_SECONDS):
        _wait(device)
        begin = time.perf_counter()
        policy(state)
        _wait(device)
        times.append(time.perf_counter() - begin)
        if sum(times) > 2 * max(LATENCY_SECONDS, 1.0):  # seconds each: none of them to warm up
            break
    return 1e3 * statistics.median(times[3:] or times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

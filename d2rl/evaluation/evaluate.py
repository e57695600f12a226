"""Decisions and their worth on a frozen set of drops, beside the references."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.networks import Observation, observe
from d2rl.algorithm.networks import decide as decode
from d2rl.common.errors import ConfigError
from d2rl.config.defaults import FullDuplexConfig
from d2rl.evaluation.link_rate_metrics import RateMetrics
from d2rl.problems.full_duplex.scenario_bank import notice_once, scenario_bank
from d2rl.problems.full_duplex.simulator import CellState, evaluation_drops, stream
from d2rl.wireless import ChannelState, full_uplink_power, link_rates, mrt, random_decision, rzf, wmmse, zf
from d2rl.wireless.bounds import interference_free_rates
from d2rl.wireless.heads import ActionHead
from d2rl.wireless.wmmse import check_weights, improve

Decision = tuple[Tensor, Tensor]
Policy = Callable[[CellState], Decision]

WMMSE_ITERATIONS = 200
AGENT, BEST_OF = "d2rl", 16  # name of the agent among the policies; candidates of its second line
AGENT_BEST = f"{AGENT} best of {BEST_OF}"
KEPT = 256  # drops whose decisions are kept beside the rates of all
SPREADS = 3  # of the log weight: what lies further out is hardly seen in training
LATENCY_REPEATS = 30
LATENCY_SECONDS = 2.0  # fewer repeats of what takes longer


@dataclass(frozen=True)
class DecisionRule:
    """How an agent's proposals become one decision.

    :param best_of: N candidates, of which the known channels' closed-form weighted rate picks one
    :param refine: K WMMSE iterations from there; they can only raise that rate
    :param priority_spread: candidates after the first are made for link weights changed at random by a
        log-normal factor of this spread, per direction and per link (0: the asked weights for all)
    :param noise: candidates after the first get Gaussian noise of this deviation (a control)
    :param seed: of the proposals' noise
    """

    best_of: int = 1
    refine: int = 0
    priority_spread: float = 0.0
    noise: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a policy did on the frozen drops.

    :param rates: [B, K_D + K_U], bit/s/Hz, of every drop
    :param precoder: [min(B, KEPT), N_t, K_D], of the first drops      :param uplink_power: [min(B, KEPT), K_U]
    """

    rates: Tensor
    precoder: Tensor
    uplink_power: Tensor


@torch.inference_mode()
def decide(agent: D2RL, state: CellState, rule: DecisionRule, generator: torch.Generator) -> Decision:
    """Precoder [B, N_t, K_D] and uplink power [B, K_U] for what the base station knows of B cells; no gradient passes.

    :raises InputError: where they are to be refined, channels or weights that cannot be
    """
    known, count = state.estimate, rule.best_of
    notice_priorities(agent.config.scenario, state.weights)
    observation = observe(known, state.weights)
    if rule.priority_spread and count > 1:
        weights = diverse_weights(state.weights, known.downlink_users, count, rule.priority_spread, generator)
        action = agent.propose(observation.asking(weights), 1, generator).reshape(known.batch, count, -1)
    else:
        action = agent.propose(observation, count, generator)
    if rule.noise and count > 1:
        noise = rule.noise * torch.randn(action.shape, generator=generator, device=action.device)
        noise[:, 0] = 0
        action = (action + noise).clamp(-1, 1)
    decision = best_decision(agent.env.head, observation, action)
    if rule.refine:
        check_weights(known.validate(), state.weights)
        return improve(known, *decision, state.weights, rule.refine)
    return decision


def notice_priorities(scenario: FullDuplexConfig, weights: Tensor) -> None:
    """Say, once, that link weights lie outside of what training in ``scenario`` shows a policy.

    :param weights: asked for, of any shape
    """
    reach = math.exp(SPREADS * math.hypot(scenario.priority_direction, scenario.priority_user))
    low, high, zero = 1 / reach, reach, scenario.priority_zero > 0
    if scenario.channel_bank:  # its own weights are multiplied by those that are drawn
        own = scenario_bank(scenario).weights
        least, most = own[own > 0].aminmax()
        low, high, zero = low * float(least), high * float(most), zero or bool((own == 0).any())
    least, most = weights.where(weights > 0, low if zero else 0.0).aminmax()
    if float(least) < low * (1 - 1e-6) or float(most) > high * (1 + 1e-6):
        notice_once(
            f"link weights were asked for that the policy was not trained with ({low:.2g} to {high:.2g}"
            f"{', or 0' if zero else ', never 0'}): its decisions may be far from the best. In training, larger "
            "scenario.priority_direction and scenario.priority_user widen the range, scenario.priority_zero adds 0."
        )


def best_decision(head: ActionHead, observation: Observation, action: Tensor) -> Decision:
    """What the head makes of one of M actions for each state: of the best by weighted rate on the known channels.

    :param action: [B, M, size]
    :returns: precoder [B, N_t, K_D] and uplink power [B, K_U]
    """
    count, channels = action.shape[1], observation.channels.repeat(action.shape[1])
    precoder, power = decode(head, observation, action, channels)
    if count == 1:
        return precoder, power
    rates = link_rates(channels, precoder, power).unflatten(0, (-1, count))
    best = (rates * observation.weights.unsqueeze(1)).sum(-1).argmax(-1)
    chosen = torch.arange(len(best), device=best.device) * count + best
    return precoder[chosen], power[chosen]


def diverse_weights(
    weights: Tensor, downlink_users: int, count: int, spread: float, generator: torch.Generator
) -> Tensor:
    """``count`` versions of link weights [B, K], the first as asked: [B, count, K]."""
    batch, links = weights.shape
    direction = torch.randn(batch, count, 2, generator=generator, device=weights.device)
    sizes = torch.tensor([downlink_users, links - downlink_users], device=weights.device)
    factor = direction.repeat_interleave(sizes, dim=-1)
    factor = factor + torch.randn(batch, count, links, generator=generator, device=weights.device)
    factor[:, 0] = 0
    return weights.unsqueeze(1) * torch.exp(spread * factor)


def policy_of(agent: D2RL, rule: DecisionRule) -> Policy:
    """The agent as a policy that gives the same decisions each time it is asked from the start."""
    generator = torch.Generator(agent.device)

    def policy(state: CellState) -> Decision:
        generator.manual_seed(stream(f"decision/{rule.seed}"))
        return decide(agent, state, rule, generator)

    return policy


def score_agent(agent: D2RL, evaluation: Evaluation, rule: DecisionRule, references: bool = True) -> dict[str, Any]:
    """Score an agent as asked, and with many candidates where nothing else was asked; the content of eval.json.

    :param references: time the references' decisions too
    """
    agent.eval()
    scenario, rules = agent.config.scenario, {AGENT: rule}
    if rule == DecisionRule():
        spread = max(scenario.priority_direction, scenario.priority_user)
        rules[AGENT_BEST] = DecisionRule(best_of=BEST_OF, priority_spread=spread)
    for name, one in rules.items():
        evaluation.score(name, policy_of(agent, one), latency=True)
    if references:
        for name, policy in evaluation.references.items():
            evaluation.policies[name]["latency_ms"] = evaluation.latency(policy)
    return evaluation.report()


def reference_policies(starts: int = 1) -> dict[str, Policy]:
    """What the base station could do without learning, on the channels that it knows."""

    def at_full_power(precoder: Callable[[ChannelState], Tensor]) -> Policy:
        return lambda state: (precoder(state.estimate), full_uplink_power(state.estimate))

    def random(state: CellState) -> Decision:
        generator = torch.Generator(state.weights.device).manual_seed(stream("random"))
        return random_decision(state.estimate, generator)

    return {
        "wmmse": lambda state: wmmse(state.estimate, WMMSE_ITERATIONS, starts, state.weights),
        "rzf": at_full_power(rzf),
        "zf": at_full_power(zf),
        "mrt": at_full_power(mrt),
        "random": random,
    }


class Evaluation:
    """A frozen evaluation set with the rates that the references reach on it.

    Example::

        evaluation = Evaluation(config.scenario, drops=256, seed=0)
        result = evaluation.score("d2rl", policy_of(agent, DecisionRule(best_of=16)))

    :param scenario: of the drops      :param drops: how many      :param seed: which
    :param device: where they are evaluated
    :param weights: [K_D + K_U], priorities asked for; default 1
    """

    def __init__(
        self,
        scenario: FullDuplexConfig,
        drops: int,
        seed: int,
        device: str | torch.device = "cpu",
        weights: Tensor | None = None,
    ):
        self.scenario = scenario
        self.state, self.positions = evaluation_drops(scenario, drops, seed, device)
        if weights is not None:
            if weights.shape != self.state.weights.shape[1:] or bool((weights < 0).any()):
                raise ConfigError(f"weights needs {self.state.weights.shape[1]} values, none negative, one per link")
            if not bool((weights > 0).any()):
                raise ConfigError("weights must not all be 0: no decision would be better than another")
            self.state = replace(self.state, weights=weights.to(self.state.weights).expand_as(self.state.weights))
        self.policies: dict[str, dict[str, float]] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.references = reference_policies()
        for name, policy in self.references.items():
            self.score(name, policy)
        self.wmmse, self.random = (self.policies[name]["weighted_sum_rate"] for name in ("wmmse", "random"))
        for metrics in self.policies.values():
            self._compare(metrics)

    def rates(self, policy: Policy) -> Tensor:
        """Link rates [B, K_D + K_U] that a policy reaches on the true channels."""
        return link_rates(self.state.channels, *policy(self.state))

    @torch.inference_mode()
    def score(self, name: str, policy: Policy, latency: bool = False) -> dict[str, float]:
        """Metrics of a policy, kept under ``name`` with its outcome; ``latency`` adds the median ms of one decision."""
        decision = policy(self.state)
        rates = link_rates(self.state.channels, *decision)
        self.outcomes[name] = Outcome(rates.cpu(), *(part[:KEPT].cpu().clone() for part in decision))
        metrics = self.summary(rates)
        if latency:
            metrics["latency_ms"] = self.latency(policy)
        self.policies[name] = metrics
        return metrics

    def summary(self, rates: Tensor) -> dict[str, float]:
        """Metrics of link rates on this set."""
        # one process evaluates alone; others would not answer
        measure = RateMetrics(self.scenario.downlink_users, sync_on_compute=False).to(rates.device)
        measure.update(rates, self.state.weights)
        metrics = {name: float(value) for name, value in measure.compute().items()}
        return self._compare(metrics) if hasattr(self, "wmmse") else metrics

    def bound(self) -> float:
        """Weighted sum rate without any interference, which nothing can pass."""
        rates = interference_free_rates(self.state.channels, self.state.weights)
        return float((rates * self.state.weights).sum(-1).mean())

    @torch.inference_mode()
    def latency(self, policy: Policy) -> float:
        """Median milliseconds of one decision for one cell, warm-up left out."""
        one = self.state[:1]
        times: list[float] = []
        while len(times) < LATENCY_REPEATS + 3 and (len(times) < 5 or sum(times) < LATENCY_SECONDS):
            _wait(self.state.weights.device)
            begin = time.perf_counter()
            policy(one)
            _wait(self.state.weights.device)
            times.append(time.perf_counter() - begin)
        return 1e3 * statistics.median(times[3:])

    def report(self) -> dict[str, Any]:
        """Content of eval.json."""
        return {
            "scenario": vars(self.scenario),
            "drops": self.state.weights.shape[0],
            "interference_free_bound": self.bound(),
            "policies": self.policies,
        }

    def _compare(self, metrics: dict[str, float]) -> dict[str, float]:
        rate = metrics["weighted_sum_rate"]
        metrics["wmmse_ratio"] = rate / self.wmmse
        metrics["gap_closed"] = (rate - self.random) / (self.wmmse - self.random)
        return metrics


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""What a policy is worth over whole episodes, where a decision changes what comes after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from d2rl.problems.base import Decision, Episodic, Problem, Simulation, stream

Policy = Callable[[Any], Decision]

SHOWN = ("return_worst", "return_best", "episode_length", "solved_share")
LONGEST = 100_000  # slots; an episode that has not ended by then is counted as it is


@dataclass(frozen=True)
class Episodes:
    """What episodes of an :class:`Episodic` problem brought.

    :param returns: [episodes]
    :param total: the records of all slots, added up
    :param course: [slots], the problem's :meth:`Episodic.course`
    """

    returns: Tensor
    total: Any
    course: Tensor


class EpisodeEvaluation:
    """Episodes with the same random numbers for every policy.

    Example::

        evaluation = EpisodeEvaluation(problem, episodes=16, seed=0)
        evaluation.score("d2rl", policy_of(agent, DecisionRule()))

    :param problem: what is acted in
    :param episodes: of each policy, side by side
    :param seed: of the world
    :param device: where it is
    :param references: judge those of the problem, too
    """

    metric = "return"

    def __init__(
        self, problem: Problem, episodes: int, seed: int, device: str | torch.device = "cpu", references: bool = True
    ):
        self.problem, self.episodes, self.device = problem, episodes, device
        self.seed = stream(f"evaluation/{seed}")
        self.policies: dict[str, dict[str, float]] = {}
        self.outcomes: dict[str, Episodes] = {}
        self.references: dict[str, Policy] = getattr(problem, "references", dict)() if references else {}
        self.episodic = isinstance(problem, Episodic)
        if not self.episodic:  # there they may take longer than a training, and wait for its end
            self.score_references()

    @torch.inference_mode()
    def returns(self, policy: Policy) -> tuple[Tensor, Tensor]:
        """Undiscounted return and length of each episode, [episodes] both."""
        world: Simulation[Any] = Simulation(self.problem, self.episodes, self.seed, self.device)
        total = torch.zeros(self.episodes, dtype=torch.float64, device=self.device)
        length, running = torch.zeros_like(total), torch.ones_like(total, dtype=torch.bool)
        for _ in range(LONGEST):
            step = world.step(policy(world.state))
            total += running * step.utility[:, 0].sum(-1).double()
            length += running
            running = running & ~(step.truncated | step.terminated)
            if not bool(running.any()):
                break
        return total, length

    @torch.inference_mode()
    def record(self, policy: Policy) -> Episodes:
        """What episodes of an :class:`Episodic` problem bring."""
        problem: Any = self.problem
        world: Simulation[Any] = Simulation(problem.endless(), self.episodes, self.seed, self.device)
        returns = torch.zeros(self.episodes, dtype=torch.float64, device=self.device)
        total, course = None, []
        for _ in range(problem.slots):
            step = world.step(policy(world.state))
            returns += step.utility[:, 0].sum(-1).double()
            total = step.record if total is None else total.plus(step.record)
            course.append(problem.course(step.record))
        return Episodes(returns, total, torch.stack(course))

    def summary(self, episodes: Episodes) -> dict[str, float]:
        """Metrics of what episodes brought."""
        problem: Any = self.problem
        return {self.metric: float(episodes.returns.mean()), **problem.summary(episodes.total)}

    def judge(self, policy: Policy) -> dict[str, float]:
        """Metrics of a policy."""
        problem: Any = self.problem
        if self.episodic:
            return self.summary(self.record(policy))
        total, length = self.returns(policy)
        solved = getattr(problem, "solved", None)
        metrics = {
            self.metric: float(total.mean()),
            "return_worst": float(total.min()),
            "return_best": float(total.max()),
            "episode_length": float(length.mean()),
        }
        if solved is not None:
            metrics["solved_share"] = float((total >= solved).double().mean())
        return metrics

    def score(self, name: str, policy: Policy, latency: bool = False) -> dict[str, float]:
        """Metrics of a policy, kept under ``name``."""
        if self.episodic:
            self.outcomes[name] = self.record(policy)
            self.policies[name] = self.summary(self.outcomes[name])
        else:
            self.policies[name] = self.judge(policy)
        return self.policies[name]

    def score_references(self) -> None:
        """Metrics of those references that have none yet."""
        for name, policy in self.references.items():
            if name not in self.policies:
                self.score(name, policy)

    def first(self) -> Any:
        """One first state."""
        return self.problem.reset(1, torch.Generator(self.device).manual_seed(self.seed))

    def report(self) -> dict[str, Any]:
        """Content of eval.json."""
        problem: Any = self.problem
        parts = [getattr(problem, name) for name in ("scenario", "config") if hasattr(problem, name)]
        scenario = {key: value for part in parts for key, value in vars(part).items()}
        least = problem.least_delay(self.episodes, self.seed, self.device) if hasattr(problem, "least_delay") else None
        shown, units = getattr(problem, "shown", SHOWN), getattr(problem, "units", {})
        return {
            "scenario": scenario,
            "drops": self.episodes,
            "metric": self.metric,
            "shown": [name for name in shown if any(name in metrics for metrics in self.policies.values())],
            **({"units": units} if units else {}),
            **({} if least is None else {"least_delay": least}),
            "policies": self.policies,
        }

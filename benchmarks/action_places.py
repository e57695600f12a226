"""Where Q is known, for benchmarks/action_objectives.py: the default cell, and the modes of benchmarks/modes.py."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import torch
from modes import COUNTS, DRAWS, WIDTH, Circles, Encoder
from torch import Tensor, nn

from d2rl.algorithm.decisions import DecisionRule
from d2rl.algorithm.explorers import AENPNN
from d2rl.algorithm.policy import make_actor
from d2rl.algorithm.rewards import raw_reward
from d2rl.config.defaults import AENPNNConfig
from d2rl.config.load import load
from d2rl.evaluation.evaluate import Evaluation, policy_of
from d2rl.problems import make_problems
from d2rl.problems.base import Observation

RULES = {
    "one": DecisionRule(),
    "own": DecisionRule(best_of=16),
    **{f"noise {size}": DecisionRule(best_of=16, noise=size) for size in (0.05, 0.1, 0.2)},
    **{f"weights {size}": DecisionRule(best_of=16, priority_spread=size) for size in (0.2, 0.3)},
}
CONTROLS = "noise", "weights"


@dataclass(frozen=True)
class Proposer:
    """A network as a policy of the cell."""

    problem: Any
    network: Any
    device = torch.device("cpu")

    def propose(self, observation: Observation, count: int, generator: torch.Generator) -> Tensor:
        """[B, count, size]."""
        return self.network.sample(observation, count, generator).tanh()


class Cell:
    """The cell of ``conf=full_duplex``; its rate in closed form, by the priorities, is Q.

    :param drops: of evaluation.seed=0, on which policies are judged
    :param tuning_drops: of evaluation.seed=77, on which settings are
    """

    criterion = "one + own"  # by which settings are chosen
    columns = "one", "own", *CONTROLS, "own - controls"

    def __init__(self, drops: int, tuning_drops: int) -> None:
        self.config: Any = load(["conf=full_duplex"])
        self.ddpg = self.config.ddpg
        self.problem: Any = make_problems(self.config)[0]
        self.judges = {True: Evaluation(self.problem, tuning_drops, 77), False: Evaluation(self.problem, drops, 0)}

    def network(self, config: AENPNNConfig | None) -> nn.Module:
        """AENPNN, or without a configuration the deterministic actor."""
        if config is None:
            return make_actor(self.config, self.problem)
        self.config.action = config
        return AENPNN.build(self.config, self.problem)

    def states(self, generator: torch.Generator) -> Observation:
        """New drops, for one update."""
        return self.problem.observe(self.problem.reset(self.ddpg.batch, generator))

    def value(self, seen: Observation, action: Tensor) -> Tensor:
        """The known rate by priorities, in the unit of the reward: [B, M]."""
        utility = self.problem.utility(seen, self.problem.decode(seen, action))
        return raw_reward(utility, seen).squeeze(-1) / self.ddpg.reward_scale

    def judge(self, network: nn.Module, tuning: bool) -> dict[str, float]:
        """Share of converged WMMSE by every rule; of a kind the best; own draws less the best of the controls."""
        proposer, judge = Proposer(self.problem, network), self.judges[tuning]
        found = {name: judge.judge(policy_of(proposer, rule))["wmmse_ratio"] for name, rule in RULES.items()}
        found |= {kind: max(found[name] for name in RULES if name.startswith(kind)) for kind in CONTROLS}
        return found | {
            self.criterion: found["one"] + found["own"],
            self.columns[-1]: found["own"] - max(found[kind] for kind in CONTROLS),
        }


class Modes(Circles):
    """States with 2, 4 and 8 equally good modes on a circle."""

    criterion = "recall x Q"
    columns = tuple(f"{what} of {count}" for what in ("recall", "Q") for count in COUNTS)

    def __init__(self, ddpg: Any) -> None:
        super().__init__()
        self.ddpg = ddpg

    def network(self, config: AENPNNConfig) -> nn.Module:
        """AENPNN."""
        encoder, ddpg = Encoder(len(COUNTS), WIDTH), self.ddpg
        return AENPNN(encoder, self.layout, WIDTH, config, ddpg.saturation_penalty, ddpg.actor_rate)

    def states(self, generator: torch.Generator) -> Observation:
        """Always the same ones."""
        return self.seen

    @torch.no_grad()
    def judge(self, network: Any, tuning: bool) -> dict[str, float]:
        """Recall and mean Q for each number of modes; the product of their means."""
        drawn = network.sample(self.seen, DRAWS, torch.Generator().manual_seed(0)).tanh()
        value = self.value(self.seen, drawn).unflatten(0, (len(COUNTS), -1)).mean((1, 2)).tolist()
        recall = self.recall(drawn)
        found = dict(zip(self.columns, [*recall, *value], strict=True))
        return found | {self.criterion: statistics.mean(recall) * statistics.mean(value)}

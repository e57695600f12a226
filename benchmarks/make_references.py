"""The references that come with the package: ``python benchmarks/make_references.py [conf=NAME ...]``.

Finds the decisions of converged WMMSE and the best known ones on the evaluation drops of experiments and writes them to
``d2rl/problems/full_duplex/reference_decisions``. Where CSI is perfect the best of 64 of the shipped policy is one more
start of the best known ones. When ``references.VERSION`` changes, old files there are to go.
"""

from __future__ import annotations

import sys

import torch

from d2rl.algorithm.ascent import chosen_of
from d2rl.algorithm.decisions import DecisionRule, decide
from d2rl.deploy.pretrained import load_policy
from d2rl.problems import load_config, make_problems
from d2rl.problems.base import Decision
from d2rl.problems.full_duplex.kept_decisions import ship
from d2rl.problems.full_duplex.references import LIMIT, Search, reference_policies
from d2rl.problems.full_duplex.simulator import CellState
from d2rl.wireless import converged_wmmse, link_rates

SETS = ("conf=full_duplex", "conf=nlos", "conf=imperfect_csi")
RULE = DecisionRule(best_of=64, priority_spread=0.2)


def main() -> None:
    """Write the files of every set."""
    torch.set_num_threads(1)
    for conf in sys.argv[1:] or SETS:
        config = load_config([conf])
        problem = make_problems(config)[0]
        state = problem.frozen(config.evaluation.drops, config.evaluation.seed, "cpu")
        for search in reference_policies().values():
            if isinstance(search, Search):
                decision = search.fresh(state)
                if search.starts > 1 and not config.scenario.csi_error:
                    decision = better(state, decision, from_policy(state))
                rate = problem.measure(state, decision).squeeze(1).sum(-1).mean()
                path = ship(search.method, LIMIT, state.estimate, state.weights, decision)
                print(
                    f"{conf} {search.name}: {rate:.2f} bit/s/Hz, {path.name}, {path.stat().st_size / 1e3:.0f} kB",
                    flush=True,
                )


def from_policy(state: CellState) -> Decision:
    """What WMMSE makes of the decisions of the shipped policy."""
    start = decide(load_policy("pretrained", [])[0], state, RULE, torch.Generator().manual_seed(0))
    return converged_wmmse(state.estimate, weights=state.weights, initial=start, limit=LIMIT)


def better(state: CellState, one: Decision, other: Decision) -> Decision:
    """Of two decisions of each state that with the higher weighted sum rate on what is known."""
    first, second = ((link_rates(state.estimate, *decision) * state.weights).sum(-1) for decision in (one, other))
    return chosen_of(first >= second, one, other)


if __name__ == "__main__":
    main()

"""The references that come with the package: ``python benchmarks/make_references.py [conf=NAME ...]``.

Finds the decisions of converged WMMSE and the best known ones on the evaluation drops of experiments and writes them to
``d2rl/problems/full_duplex/reference_decisions``. When ``references.VERSION`` changes, old files there are to go.
"""

from __future__ import annotations

import sys

import torch

from d2rl.problems import load_config, make_problems
from d2rl.problems.full_duplex.kept_decisions import ship
from d2rl.problems.full_duplex.references import LIMIT, Search, reference_policies

SETS = ("conf=full_duplex", "conf=nlos", "conf=imperfect_csi")


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
                rate = problem.measure(state, decision).squeeze(1).sum(-1).mean()
                path = ship(search.method, LIMIT, state.estimate, state.weights, decision)
                print(
                    f"{conf} {search.name}: {rate:.2f} bit/s/Hz, {path.name}, {path.stat().st_size / 1e3:.0f} kB",
                    flush=True,
                )


if __name__ == "__main__":
    main()

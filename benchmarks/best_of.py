"""Best of N candidates and WMMSE refinement: sum rate against latency, beside WMMSE with one and many starts,
for so many iterations and until it has converged.

    python benchmarks/best_of.py NAME=CHECKPOINT[,CHECKPOINT...] [NAME=...] [--drops 256]

Several checkpoints of one name are seeds; the table gives their mean. Candidates differ by the policy's own noise,
by the link weights that they are made for, or, as a control, by Gaussian noise on top of the policy's own.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from rich.console import Console
from rich.table import Table

from d2rl.algorithm.decisions import DecisionRule
from d2rl.common.errors import counted
from d2rl.deploy.pretrained import load_policy
from d2rl.evaluation.evaluate import Evaluation, policy_of
from d2rl.wireless import wmmse

RULES = {
    "one decision": DecisionRule(),
    "best of 16, own noise": DecisionRule(best_of=16),
    "best of 16, Gaussian 0.05": DecisionRule(best_of=16, noise=0.05),
    "best of 16, Gaussian 0.1": DecisionRule(best_of=16, noise=0.1),
    "best of 16, Gaussian 0.2": DecisionRule(best_of=16, noise=0.2),
    "best of 4, weights 0.3": DecisionRule(best_of=4, priority_spread=0.3),
    "best of 16, weights 0.3": DecisionRule(best_of=16, priority_spread=0.3),
    "best of 64, weights 0.3": DecisionRule(best_of=64, priority_spread=0.3),
    "one decision, refine 5": DecisionRule(refine=5),
    "best of 16, weights 0.3, refine 5": DecisionRule(best_of=16, priority_spread=0.3, refine=5),
}
WMMSE_RUNS = ((1, 1), (10, 1), (50, 1), (200, 1), (200, 4), (200, 12))  # iterations, starts


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="+")
    parser.add_argument("--drops", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    evaluation, rows = None, []
    for given in arguments.policies:
        name, _, paths = given.partition("=")
        agents = [load_policy(path)[0] for path in paths.split(",")]
        evaluation = evaluation or Evaluation(agents[0].problem, arguments.drops, seed=0)
        evaluation.score_references()
        for label, rule in RULES.items():
            scores = [evaluation.score(label, policy_of(agent, rule)) for agent in agents]
            ratio = statistics.mean(score["wmmse_ratio"] for score in scores)
            rate = statistics.mean(score["sum_rate"] for score in scores)
            rows.append((f"{name}: {label}", rate, ratio, evaluation.latency(policy_of(agents[0], rule))))
    for name, label in (("wmmse", "1 start"), ("best_known", "12 starts")):
        converged, search = evaluation.policies[name], evaluation.references[name]
        latency = evaluation.latency(search)
        rows.append((f"WMMSE, converged, {label}", converged["sum_rate"], converged["wmmse_ratio"], latency))
    for iterations, starts in WMMSE_RUNS:

        def policy(state, iterations=iterations, starts=starts):
            return wmmse(state.estimate, iterations, starts)

        score = evaluation.score("iterations", policy)
        label = f"WMMSE, {counted(iterations, 'iteration')}, {counted(starts, 'start')}"
        rows.append((label, score["sum_rate"], score["wmmse_ratio"], evaluation.latency(policy)))
    table = Table("decision", "sum rate (bit/s/Hz)", "share of WMMSE", "latency (ms)")
    for label, rate, ratio, latency in rows:
        table.add_row(label, f"{rate:.2f}", f"{ratio:.4f}", f"{latency:.2f}")
    Console().print(table)
    for label, rate, ratio, latency in rows:
        print(f"| {label} | {rate:.2f} | {ratio:.4f} | {latency:.2f} |")


if __name__ == "__main__":
    main()

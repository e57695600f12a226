"""Proportional-fair scheduling: link weights that follow what each link has received so far."""

from __future__ import annotations

from dataclasses import replace

import torch

from d2rl.algorithm.decisions import DecisionRule, decide
from d2rl.algorithm.policy import Policy
from d2rl.problems.full_duplex.checks import check_schedule
from d2rl.problems.full_duplex.env import FullDuplexEnv
from d2rl.problems.full_duplex.simulator import equal_priorities
from d2rl.wireless import link_rates

WINDOW = 10  # slots over which the throughput of a link is averaged


def proportional_fair(policy: Policy, rule: DecisionRule, cells: int, slots: int, seed: int) -> dict[str, float]:
    """Compare equal weights with proportional-fair ones over an episode of ``slots`` slots in the same cells.

    A link's weight is one over its exponentially averaged throughput, normalised to a mean of 1
    (Viswanath, Tse and Laroia, IEEE Trans. Inf. Theory 2002).

    :returns: ``slots``, and for the schedules ``equal`` and ``proportional_fair``: ``<schedule>_sum_rate``, and
        ``<schedule>_geometric_mean`` and ``<schedule>_p5`` (5th percentile) of a link's throughput, bit/s/Hz
    :raises ConfigError: with a channel bank, whose states do not move on in time
    """
    check_schedule(policy.config.scenario)
    result: dict[str, float] = {"slots": slots}
    for name, fair in (("equal", False), ("proportional_fair", True)):
        scenario = replace(equal_priorities(policy.config.scenario), episode_length=slots + 1)
        env = FullDuplexEnv(scenario, cells, seed, policy.device)
        generator = torch.Generator(policy.device).manual_seed(seed)
        average = torch.full_like(env.state.weights, 1.0)
        total = torch.zeros_like(average)
        for slot in range(slots):
            state = env.state
            if fair and slot:
                weights = 1 / average.clamp_min(1e-2)
                state = replace(state, weights=weights / weights.mean(-1, keepdim=True))
            rates = link_rates(state.channels, *decide(policy, state, rule, generator))
            average = rates if slot == 0 else average + (rates - average) / WINDOW
            total += rates
            env.advance()
        throughput = total / slots
        result[f"{name}_sum_rate"] = float(throughput.sum(-1).mean())
        result[f"{name}_geometric_mean"] = float(throughput.clamp_min(1e-3).log().mean(-1).exp().mean())
        result[f"{name}_p5"] = float(throughput.flatten().quantile(0.05))
    return result

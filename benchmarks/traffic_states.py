"""What synthetic channels are worth to a policy of queues that has few real ones: SENPNN beside its controls.

    python benchmarks/traffic_states.py [seeds=5] [seed=0] [states=20] [updates=600] [out=DIR] [only=NAMES]
                                        [key=value ...]

Two users in each direction, who stay in one place, another one for each seed, and a plain network that sees raw
channels. Every source trains the same policy by the analytic gradient for the same number of updates, of ``many``
states, of ``endless`` fading in its order, or of few states; episodes of endless fading in the place judge it.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning_overhead import plain_agent
from state_sources import SOURCES as OF_STATES
from state_sources import Comparison, compare, trained

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.decisions import DecisionRule
from d2rl.common.command_line import run
from d2rl.evaluation.episodes import EpisodeEvaluation
from d2rl.evaluation.evaluate import policy_of
from d2rl.problems import load_config

CELL = [
    *("scenario.downlink_users=2", "scenario.uplink_users=2", "scenario.transmit_antennas=4"),
    *("scenario.receive_antennas=4", "scenario.cell_radius=50", "scenario.self_interference=-110"),
    *("network.kind=mlp", "ddpg.analytic=true", "ddpg.actor_rate=4e-3", "trainer.epochs=1"),
    *("traffic.load_low=0.2", "traffic.load_high=0.7", "traffic.load=0.5"),
    *("stages.reward=null", "stages.state=0", "state.every=1", "chi.policy=fixed", "chi.maximum=1"),
]
SOURCES = {"many": ["scenario.stored_states=10000", "stages.state=null"], **OF_STATES}


def sources_command(arguments: list[str]) -> None:
    """python benchmarks/traffic_states.py [seeds=5] [seed=0] [states=20] [updates=600] [out=DIR]"""
    compare(arguments, Comparison, SOURCES, measured, "mean_delay", digits=4, file="states.csv")


def measured(asked: Comparison, seed: int, given: list[str]) -> dict[str, Any]:
    """One run of a source."""
    plan = [f"scenario.stored_states={asked.states}", f"trainer.updates_per_epoch={asked.updates}"]
    place = [f"scenario.fixed_drop={seed}", f"seed={seed}"]
    config = load_config(["conf=traffic", *CELL, *plan, *place, *given])
    start = time.process_time()
    agent = trained(plain_agent(config, torch.device("cpu")), asked.updates)
    spent = round(time.process_time() - start, 1)
    found = {"states": config.scenario.stored_states, "updates": asked.updates}
    return found | {**judged(agent), "training_cpu_s": spent}


def judged(agent: D2RL) -> dict[str, float]:
    """What the policy reaches in episodes on channels that it was not trained on."""
    asked = agent.config.evaluation
    evaluation = EpisodeEvaluation(agent.problem, asked.drops, asked.seed, references=False)
    found = evaluation.judge(policy_of(agent, DecisionRule()))
    return {name: round(found[name], 5) for name in ("mean_delay", "delay_p95", "throughput", "jain")}


if __name__ == "__main__":
    run(sources_command, Comparison)

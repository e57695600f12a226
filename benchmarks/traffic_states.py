"""What synthetic channels are worth to a policy of queues that has few real ones: SENPNN beside its controls.

    python benchmarks/traffic_states.py [seeds=5] [seed=0] [states=20] [updates=600] [out=DIR] [only=NAMES]
                                        [key=value ...]

Two users in each direction, who stay in one place, another one for each seed, and a plain network that sees raw
channels. Every source trains the same policy by the analytic gradient for the same number of updates, of ``many``
states, of ``endless`` fading in its order, or of few states; episodes of endless fading in the place judge it.
"""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_overhead import plain_agent
from rich.console import Console
from rich.progress import track
from state_sources import SOURCES as OF_STATES
from state_sources import trained

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.decisions import DecisionRule
from d2rl.common.command_line import run
from d2rl.config.defaults import option
from d2rl.config.load import load
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


@dataclass
class SourcesConfig:
    """What the command takes; keys with a dot are those of the configuration."""

    seeds: int = option(5, "runs of each source", low=1)
    seed: int = option(0, "first seed: of the place, weights, exploration and the channels that are stored", low=0)
    states: int = option(20, "real channel states to train on, where they are few", low=2)
    updates: int = option(600, "of the policy", low=10)
    only: str | None = option(None, "sources with commas; null: all")
    out: str | None = option(None, "folder for states.csv")


def sources_command(arguments: list[str]) -> None:
    """python benchmarks/traffic_states.py [seeds=5] [seed=0] [states=20] [updates=600] [out=DIR]"""
    rest = [one for one in arguments if "." in one.partition("=")[0]]
    asked = load([one for one in arguments if one not in rest], SourcesConfig)
    names = list(SOURCES) if asked.only is None else asked.only.split(",")
    runs = [(asked.seed + i, name) for i in range(asked.seeds) for name in names]
    rows, console = [], Console()
    for seed, name in track(runs, "runs", transient=True):
        torch.manual_seed(seed)
        plan = [f"scenario.stored_states={asked.states}", f"trainer.updates_per_epoch={asked.updates}"]
        place = [f"scenario.fixed_drop={seed}", f"seed={seed}"]
        config = load_config(["conf=traffic", *CELL, *plan, *SOURCES[name], *place, *rest])
        start = time.process_time()
        agent = trained(plain_agent(config, torch.device("cpu")), asked.updates)
        spent = round(time.process_time() - start, 1)
        rows.append({"seed": seed, "source": name, "states": config.scenario.stored_states, "updates": asked.updates})
        rows[-1] |= {**judged(agent), "training_cpu_s": spent}
        console.print(rows[-1], soft_wrap=True)
    for name in names:
        reached = [row["mean_delay"] for row in rows if row["source"] == name]
        low, high = np.quantile(np.random.default_rng(0).choice(reached, (4000, len(reached))).mean(1), [0.025, 0.975])
        console.print(f"{name:12} {np.mean(reached):8.4f} [{low:.4f}, {high:.4f}]")
    if asked.out:
        folder = Path(asked.out)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "states.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def judged(agent: D2RL) -> dict[str, float]:
    """What the policy reaches in episodes on channels that it was not trained on."""
    asked = agent.config.evaluation
    evaluation = EpisodeEvaluation(agent.problem, asked.drops, asked.seed, references=False)
    found = evaluation.judge(policy_of(agent, DecisionRule()))
    return {name: round(found[name], 5) for name in ("mean_delay", "delay_p95", "throughput", "jain")}


if __name__ == "__main__":
    run(sources_command, SourcesConfig)

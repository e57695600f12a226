"""DDPG, TD3 and SAC of Stable-Baselines3 on the cell with queues: mean delay over the time of training.

    python benchmarks/traffic_peers.py [algorithms=td3,sac] [seeds=1] [seed=0] [seconds=240] [load=1]
        [out=DIR] [sac.gradient_steps=8 ...]

Features, action head, reward and evaluation are those of ``conf=traffic``; the reward is one number for the cell, which
is all that the library can learn from. Needs the extra ``peers``.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from d2rl.benchmark.peer_config import EachPeer, PeerConfig
from d2rl.common.command_line import run
from d2rl.common.errors import ConfigError
from d2rl.config.defaults import option
from d2rl.config.load import load
from d2rl.evaluation.episodes import EpisodeEvaluation, Policy
from d2rl.problems import load_config, make_problems

COLUMNS = ("algorithm", "seed", "seconds", "slots", "updates", "mean_delay", "delay_p95", "throughput")


@dataclass
class TrafficPeers(EachPeer):
    """What the command takes."""

    algorithms: str = option("td3,sac", "with commas")
    seeds: int = option(1, "how many", low=1)
    seed: int = option(0, "the first of them", low=0)
    seconds: float = option(240.0, "process time of training, evaluation excluded", above=0)
    every: float = option(60.0, "seconds of training between two evaluations", above=0)
    load: float = option(1.0, "of evaluations", above=0)
    cells: int = option(48, "of evaluations", low=1)
    evaluation_seed: int = option(0, "of users, channels and arrivals", low=0)
    out: str = option("runs/traffic-peers", "where it writes peers.csv")


def traffic_peers_command(arguments: list[str]) -> None:
    """python benchmarks/traffic_peers.py [algorithms=td3,sac] [seeds=1] [seed=0] [seconds=240] [load=1] [out=DIR]

    Trains one after the other on one CPU thread, and writes peers.csv.
    """
    asked, console = load(arguments, TrafficPeers), Console()
    try:
        from d2rl.benchmark.stable_baselines import CLASSES, decisions, train_on
    except ImportError:
        raise ConfigError("the peers are Stable-Baselines3's: pip install 'd2rl[peers]'") from None
    from d2rl.problems.full_duplex.stable_baselines import CellVecEnv
    from d2rl.problems.traffic.gymnasium_env import TrafficVectorEnv, flat_features

    config = load_config(["conf=traffic", f"traffic.load={asked.load:g}"])
    problem: Any = make_problems(config)[0]
    evaluation = EpisodeEvaluation(problem, asked.cells, asked.evaluation_seed, references=False)
    place = Path(asked.out).expanduser() / "peers.csv"
    place.parent.mkdir(parents=True, exist_ok=True)

    def decode(state: Any, action: Tensor) -> Any:
        return problem.decode(problem.observe(state), action.unsqueeze(1))

    def policy_of(model: Any) -> Policy:
        return decisions(model, lambda state: flat_features(problem.observe(state)), decode)

    rows: list[dict[str, Any]] = []
    for name in asked.algorithms.split(","):
        if name not in CLASSES:
            raise ConfigError(f"algorithms={asked.algorithms}: {name} is none of {', '.join(CLASSES)}.")
        for seed in range(asked.seed, asked.seed + asked.seeds):
            own: PeerConfig = getattr(asked, name)
            span = {"load_low": config.traffic.load_low, "load_high": config.traffic.load_high}
            cells = CellVecEnv(own.num_envs, TrafficVectorEnv, reward_scale=own.reward_scale, **span)
            times = {"seed": seed, "seconds": asked.seconds, "every": asked.every}
            for point in train_on(cells, name, own, policy_of, evaluation.judge, **times).curve:
                found = {"algorithm": name, "seed": seed, **vars(point), "slots": point.steps, **point.metrics}
                rows.append({column: found[column] for column in COLUMNS})
                told = f"{name}, seed {seed}, {point.seconds:.0f} s: {point.metrics['mean_delay']:.3f} slots"
                console.print(told, highlight=False)
    with open(place, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    console.print(f"written: {place}", markup=False)


if __name__ == "__main__":
    run(traffic_peers_command, TrafficPeers)

"""Settings of the comparison with other libraries' learners."""

from __future__ import annotations

from dataclasses import dataclass, field

from d2rl.config.defaults import FullDuplexConfig, option


@dataclass
class PeerConfig:
    """One peer; gamma is 0 as for D2RL."""

    learning_rate: float = option(1e-3, "of actor and critic at the start", above=0)
    rate_end: float = option(0.1, "learning rate at the end, as a part of the start", above=0, high=1)
    saturation_penalty: float = option(0.3, "weight of the squared output before tanh", low=0)
    batch: int = option(128, "transitions in an update", low=1)
    gradient_steps: int = option(8, "updates for each slot of all cells", low=1)
    num_envs: int = option(64, "cells simulated side by side", low=1)
    replay: int = option(100_000, "transitions kept", low=1)
    warmup: int = option(2000, "transitions of random actions at the start", low=0)
    width: int = option(256, "of a hidden layer", low=1)
    layers: int = option(2, "hidden layers", low=1)
    noise: float = option(0.6, "standard deviation of the exploration at the start (ddpg, td3)", low=0)
    noise_end: float = option(0.2, "the same at the end", low=0)
    policy_delay: int = option(2, "updates of the critics for each of the actor (td3)", low=1)
    entropy: str = option("0.03", "entropy coefficient of sac: a number, or auto_START to learn it")
    reward_scale: float = option(10.0, "bit/s/Hz of sum rate that count as one", above=0)


@dataclass
class EachPeer:
    """The settings of every peer, by its name."""

    ddpg: PeerConfig = field(default_factory=PeerConfig)
    td3: PeerConfig = field(default_factory=PeerConfig)
    sac: PeerConfig = field(default_factory=lambda: PeerConfig(saturation_penalty=0.0))


@dataclass
class PeersConfig(EachPeer):
    """The comparison."""

    algorithms: str = option("ddpg,td3,sac", "with commas")
    seeds: int = option(3, "how many", low=1)
    seed: int = option(0, "the first of them", low=0)
    seconds: float = option(240.0, "process time of training, evaluation excluded", above=0)
    every: float = option(1.0, "seconds of training between two evaluations", above=0)
    drops: int = option(256, "evaluation drops, the same as of D2RL", low=1)
    evaluation_seed: int = option(0, "of the evaluation drops", low=0)
    out: str | None = option(None, "where it writes; null: runs/peers")
    beside: str | None = option(None, "folder of d2rl.benchmark.command, whose variants race to each peer's best level")
    scenario: FullDuplexConfig = field(default_factory=FullDuplexConfig)

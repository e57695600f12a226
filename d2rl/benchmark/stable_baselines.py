"""Training of DDPG, TD3 and SAC of Stable-Baselines3 by the clock, with the evaluation that D2RL has."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor, nn

from d2rl.benchmark.peer_config import PeerConfig
from d2rl.config.defaults import FullDuplexConfig
from d2rl.evaluation.evaluate import Decision, Evaluation, Policy
from d2rl.problems.full_duplex.gymnasium_env import flat_features
from d2rl.problems.full_duplex.stable_baselines import CellVecEnv
from d2rl.training.callbacks.gpu_time import THRESHOLDS
from d2rl.wireless.heads import make_head

CLASSES: dict[str, type[OffPolicyAlgorithm]] = {"ddpg": DDPG, "td3": TD3, "sac": SAC}
FOREVER = 10**12  # steps; the clock ends the training


@dataclass(frozen=True)
class Point:
    """One evaluation: environment steps, updates and seconds of training until then, and its metrics."""

    steps: int
    updates: int
    seconds: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class PeerResult:
    """A trained peer.

    :param policy: its decisions
    :param seconds: process time of training, by section
    :param time_to_gap: seconds until a threshold was passed first, None if it never was
    """

    policy: Policy
    curve: list[Point]
    seconds: dict[str, float]
    time_to_gap: dict[str, float | None]


class Clock(BaseCallback):
    """Ends training after ``seconds`` of process time and evaluates every ``every`` of them; evaluation is not counted.

    :param score: evaluates the policy
    """

    def __init__(self, score: Callable[[], dict[str, float]], seconds: float, every: float):
        super().__init__()
        self.score, self.limit, self.every = score, seconds, every
        self.curve: list[Point] = []
        self.sections = {"rollout": 0.0, "updates": 0.0}
        self.time_to_gap: dict[str, float | None] = dict.fromkeys(THRESHOLDS)
        self.section, self.due, self.mark = "updates", every, time.process_time()

    @property
    def spent(self) -> float:
        """Seconds of training so far, as last read."""
        return sum(self.sections.values())

    @property
    def share(self) -> float:
        """Part of the training that is over, in [0, 1]."""
        return min(1.0, self.spent / self.limit)

    def _on_training_start(self) -> None:
        self.mark = time.process_time()

    def _on_rollout_start(self) -> None:
        self._read()
        self.section = "rollout"

    def _on_rollout_end(self) -> None:
        self._read()
        self.section = "updates"

    def _on_step(self) -> bool:
        self._read()
        if self.spent >= min(self.due, self.limit):
            self.due = self.spent + self.every
            self._evaluate()
        return self.spent < self.limit

    def _read(self) -> None:
        now = time.process_time()
        self.sections[self.section] += now - self.mark
        self.mark = now

    def _evaluate(self) -> None:
        metrics = self.score()
        self.curve.append(Point(self.num_timesteps, self.model._n_updates, self.spent, metrics))
        for threshold, reached in self.time_to_gap.items():
            if reached is None and metrics.get("gap_closed", -math.inf) >= float(threshold):
                self.time_to_gap[threshold] = self.spent
        self.mark = time.process_time()


class GaussianNoise(VectorizedActionNoise):
    """Gaussian exploration of all cells in one draw.

    :param shape: of the actions, [B, size]
    :param deviation: tells the standard deviation now
    """

    def __init__(self, shape: tuple[int, ...], deviation: Callable[[], float]):
        self.shape, self.deviation = shape, deviation

    def __call__(self) -> np.ndarray:
        """Noise for every cell."""
        return np.random.normal(0.0, self.deviation(), self.shape).astype(np.float32)

    def reset(self, indices: Iterable[int] | None = None) -> None:
        """Noise of one slot does not depend on another's."""


def train_peer(
    algorithm: str,
    config: PeerConfig,
    scenario: FullDuplexConfig,
    evaluation: Evaluation,
    *,
    seed: int,
    seconds: float,
    every: float,
) -> PeerResult:
    """Train one peer on the rates of one slot; see :func:`train_on`.

    :param evaluation: the frozen drops
    """
    head = make_head(scenario.head, scenario.transmit_antennas, scenario.passes)

    def policy_of(model: OffPolicyAlgorithm) -> Policy:
        return decisions(model, flat_features, lambda state, action: head.decode(state.estimate, action))

    def score(policy: Policy) -> dict[str, float]:
        return evaluation.judge(policy)

    cells = CellVecEnv(config.num_envs, reward_scale=config.reward_scale, **asdict(scenario))
    return train_on(cells, algorithm, config, policy_of, score, seed=seed, seconds=seconds, every=every)


def train_on(
    cells: VecEnv,
    algorithm: str,
    config: PeerConfig,
    policy_of: Callable[[OffPolicyAlgorithm], Policy],
    score: Callable[[Policy], dict[str, float]],
    *,
    seed: int,
    seconds: float,
    every: float,
) -> PeerResult:
    """Train one peer on a batch of cells.

    :param cells: side by side
    :param algorithm: ddpg, td3 or sac
    :param policy_of: a model's decisions, such as :func:`decisions`
    :param score: metrics of a policy
    :param seconds: process time of training
    :param every: seconds of training between two evaluations
    """
    clock = Clock(lambda: score(policy), seconds, every)

    def falling(start: float, end: float) -> float:
        return start + (end - start) * clock.share

    env = VecNormalize(cells, norm_reward=False)  # standardised features, as the library's recipes have
    own: dict[str, Any] = {}
    if algorithm == "sac":
        own["ent_coef"] = config.entropy
    else:
        shape = cells.num_envs, *cells.action_space.shape
        own["action_noise"] = GaussianNoise(shape, lambda: falling(config.noise, config.noise_end))
    if algorithm == "td3":
        own |= {"policy_delay": config.policy_delay, "target_policy_noise": 0.0}
    model = CLASSES[algorithm](
        "MlpPolicy",
        env,
        learning_rate=lambda _: falling(config.learning_rate, config.learning_rate * config.rate_end),
        buffer_size=config.replay,
        learning_starts=config.warmup,
        batch_size=config.batch,
        gamma=0.0,
        train_freq=1,
        gradient_steps=config.gradient_steps,
        policy_kwargs={"net_arch": [config.width] * config.layers, "optimizer_kwargs": {"fused": True}},
        seed=seed,
        device="cpu",
        **own,
    )
    penalise_saturation(model.policy.actor, config.saturation_penalty)
    policy = policy_of(model)
    model.learn(FOREVER, clock, log_interval=FOREVER)
    return PeerResult(policy, clock.curve, clock.sections, clock.time_to_gap)


def penalise_saturation(actor: Any, weight: float) -> None:
    """Let an actor minimise ``weight`` times its mean squared output before tanh (the mean's, for SAC), too.

    Without it the actor runs into the corners of the action box and stays there; the library has no place for such a
    term, so its gradient is added where that of the loss passes.
    """

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if output.requires_grad:
            pull = 2 * weight / output.numel() * output.detach()
            output.register_hook(lambda gradient: gradient + pull)

    last = actor.mu[-2] if isinstance(actor.mu, nn.Sequential) else actor.mu
    last.register_forward_hook(hook)


def decisions(
    model: OffPolicyAlgorithm, features: Callable[[Any], Tensor], decode: Callable[[Any, Tensor], Decision]
) -> Policy:
    """A peer's decisions without exploration, with nothing of its library's face around the network.

    :param features: of a state, [B, size]
    :param decode: from a state and actions [B, size] to decisions
    """

    @torch.no_grad()
    def policy(state: Any) -> Decision:
        model.policy.set_training_mode(False)
        seen = features(state)
        if (normalize := model.get_vec_normalize_env()) is not None:
            seen = torch.from_numpy(np.asarray(normalize.normalize_obs(seen.numpy()), dtype=np.float32))
        return decode(state, model.policy._predict(seen, deterministic=True))

    return policy

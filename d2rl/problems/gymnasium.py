"""Any Gymnasium environment whose observations and actions are vectors of real numbers (Box spaces) as a problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import NormalizeObservation, OrderEnforcing, RescaleAction, TimeLimit, TransformAction
from gymnasium.wrappers.utils import RunningMeanStd
from torch import Tensor

from d2rl.common.errors import ConfigError, InputError, first_line, placed
from d2rl.common.notices import notice_once
from d2rl.common.tensor_struct import TensorStruct
from d2rl.config.defaults import option
from d2rl.problems.base import Layout, Observation, Rows, Simulation, Sizes, Step

PROBE = 1000  # random steps that show how far an unbounded observation spreads
HELD_OUT_AT = 50  # steps after which observations are kept for judging SENPNN
WIDE = 1e6  # half a range of observations from which on it tells nothing of their spread


@dataclass
class GymnasiumConfig:
    """Which environment, and how long its episodes are."""

    id: str = option("Pendulum-v1", "of the environment; MODULE:ID imports the package that registers it first")
    max_episode_steps: int | None = option(None, "steps after which an episode is cut; null: as registered", low=1)
    solved: float | None = option(None, "return from which on an episode has reached its goal; null: as registered")


@dataclass(frozen=True)
class Episodes(TensorStruct):
    """B episodes under way, each in a simulation of its own.

    A simulation can be neither copied nor stored. So only the latest state can be stepped, and a resumed run begins
    new episodes.

    :param observation: [B, n], normalised
    :param envs: the simulations
    """

    observation: Tensor
    envs: VectorEnv


class GymnasiumProblem:
    """A Gymnasium environment: one entity, whose utility is the reward, and nothing in closed form.

    Actions in [-1, 1] are rescaled to the environment's bounds. An observation is normalised by fixed numbers, the
    same in training, evaluation and wherever the policy is used later: by its bounds, or where it has none by mean and
    deviation over the steps of a random policy.

    :param config: which environment
    :raises ConfigError: it cannot be made, or has no vectors of finite numbers
    """

    name = "gymnasium"
    section = "gymnasium"
    settings = GymnasiumConfig
    tied = ("id", "max_episode_steps")
    exogenous = False
    exogenous_rows = False

    def __init__(self, config: GymnasiumConfig):
        self.config, self.simulator = config, f"gymnasium.id={config.id}"
        env = self._attempt(partial(gym.make, config.id, config.max_episode_steps, disable_env_checker=True))
        self._check_spaces(env)
        self._attempt(partial(self._check_steps, env))
        self.action_shape = env.action_space.shape
        numbers, actions = (int(np.prod(space.shape)) for space in (env.observation_space, env.action_space))
        self.layout = Layout((1,), (actions,))
        self.sizes = Sizes(nodes=numbers, edges=0, view=actions, flat=numbers)
        self.solved = env.spec.reward_threshold if config.solved is None else config.solved
        if env.spec.max_episode_steps is None:
            notice_once(
                f"{self.simulator} is registered without a limit of steps: where an episode does not end by itself, an "
                "evaluation takes very long. gymnasium.max_episode_steps=N cuts it after N steps."
            )
        self.statistics = self._attempt(lambda: self._statistics(env))
        env.close()

    @classmethod
    def check(cls, config: Any) -> None:
        """Refuse what cannot be trained on. :raises ConfigError: names the key"""
        if config.network.kind != "mlp":
            raise ConfigError(
                f"network.kind={config.network.kind} passes messages between entities, and problem=gymnasium has one; "
                "set network.kind=mlp."
            )
        cls(config.gymnasium)

    @classmethod
    def variants(cls, config: GymnasiumConfig, seed: int) -> list[GymnasiumProblem]:
        """The one environment."""
        return [cls(config)]

    def __str__(self) -> str:
        return f"{self.config.id} with {self.sizes.flat} observed numbers and {self.layout.size} of an action"

    # ------------------------------------------------------------------ the problem

    def reset(self, batch: int, generator: torch.Generator) -> Episodes:
        """B first states, each simulation seeded from the generator."""
        envs: Any = gym.make_vec(
            self.config.id,
            batch,
            "sync",
            {"autoreset_mode": AutoresetMode.SAME_STEP},
            [self._wrapped],
            max_episode_steps=self.config.max_episode_steps,
            disable_env_checker=True,
        )
        seeds = torch.randint(2**31 - 1, (batch,), generator=generator, device=generator.device)
        first, _ = envs.reset(seed=seeds.tolist())
        return self._state(first, envs, generator.device)

    def step(self, state: Episodes, decision: Tensor, generator: torch.Generator) -> Step[Episodes]:
        """One step of every simulation; one whose episode ends is reset at once."""
        envs, device = state.envs, state.observation.device
        actions = decision.reshape(-1, *self.action_shape).cpu().numpy()
        observation, reward, terminated, truncated, info = envs.step(actions)
        final = observation.copy()
        for index in np.flatnonzero(info.get("_final_obs", ())):
            final[index] = info["final_obs"][index]
        if not np.isfinite(reward).all():
            raise self._not_finite("a reward")
        return Step(
            torch.as_tensor(reward, dtype=torch.float32, device=device)[:, None, None],
            self._state(final, envs, device),
            self._state(observation, envs, device),
            torch.as_tensor(truncated, device=device),
            torch.as_tensor(terminated, device=device),
        )

    def observe(self, state: Episodes) -> Observation:
        """The normalised observation as the features of the one entity."""
        nodes = state.observation.unsqueeze(1)
        batch = len(nodes)
        one = nodes.new_ones(batch, 1)
        return Observation(nodes, nodes.new_zeros(batch, 1, 1, 0), one, torch.zeros_like(one), None, self.layout)

    def decode(self, observation: Observation, action: Tensor) -> Tensor:
        """Actions within [-1, 1], [B M, size]; the environment's own wrapper rescales them."""
        return action.float().clamp(-1, 1).flatten(0, 1)

    def view(self, observation: Observation, action: Tensor, decision: Tensor | None = None) -> Tensor:
        """The bare action, [B, M, 1, size]."""
        return action.unsqueeze(2)

    def flat(self, observation: Observation) -> Tensor:
        """The normalised observation, [B, n]."""
        return observation.nodes.squeeze(1)

    def references(self) -> dict[str, Callable[[Episodes], Tensor]]:
        """Random actions, the level of no learning."""
        generator = torch.Generator().manual_seed(0)

        def random(state: Episodes) -> Tensor:
            draw = 2 * torch.rand(len(state.observation), self.layout.size, generator=generator) - 1
            return draw.to(state.observation.device)

        return {"random": random}

    # ------------------------------------------------------------------ Generative

    def row_sizes(self) -> dict[str, int]:
        """Numbers of an observation."""
        return {"observation": self.sizes.flat}

    def place_sizes(self) -> dict[str, int]:
        """None: an observation is all that is known."""
        return {}

    def rows(self, state: Observation) -> dict[str, Rows]:
        """Normalised observations: the simulations behind them cannot be diffused."""
        return {"observation": Rows(state.nodes, torch.zeros_like(state.nodes[..., :1]))}

    def with_rows(self, state: Observation, numbers: Mapping[str, Tensor], generator: torch.Generator) -> Observation:
        """Other observations; the policy may ascend Q on them, but nothing can be executed there."""
        return replace(state, nodes=numbers["observation"])

    def held_out(self, count: int, device: torch.device) -> tuple[Observation, None]:
        """Observations some way into episodes of a random policy."""
        simulation = Simulation(self, count, 0, device, "held out")
        random = self.references()["random"]
        for _ in range(HELD_OUT_AT):
            simulation.step(random(simulation.state))
        return self.observe(simulation.state), None

    def plausibility(
        self, real: Observation, made: Observation, generator: torch.Generator
    ) -> dict[str, dict[str, Any]]:
        """Kolmogorov-Smirnov distance of each number, beside its 95 % point between two real samples."""
        ordered = torch.sort(torch.cat([self.flat(real), self.flat(made)]), dim=0)
        steps = torch.where(ordered.indices < real.batch, 1 / real.batch, -1 / made.batch)
        distances = steps.cumsum(0).abs().amax(0)
        chance = 1.36 * (1 / real.batch + 1 / made.batch) ** 0.5
        return {f"ks/{i}": {"value": float(d), "within": bool(d < chance)} for i, d in enumerate(distances)}

    # ------------------------------------------------------------------ the environment

    def _state(self, observation: np.ndarray, envs: VectorEnv, device: torch.device) -> Episodes:
        if not np.isfinite(observation).all():
            raise self._not_finite("an observation")
        return Episodes(torch.as_tensor(observation, dtype=torch.float32, device=device).flatten(1), envs)

    def _not_finite(self, what: str) -> InputError:
        return InputError(
            f"{self.simulator} gave {what} that is not finite, from which nothing can be learned; mend the environment."
        )

    def _wrapped(self, env: gym.Env) -> gym.Wrapper:
        """Actions in [-1, 1], normalised observations."""
        space: Any = env.action_space
        # rescaling rounds, and an environment may insist on its bounds
        env = TransformAction(env, lambda action: np.clip(action, space.low, space.high), space)
        wrapped = NormalizeObservation(RescaleAction(env, np.float32(-1), np.float32(1)))
        wrapped.obs_rms, wrapped.update_running_mean = self.statistics, False
        return wrapped

    def _statistics(self, env: gym.Env) -> RunningMeanStd:
        """Mean and variance by which observations are normalised."""
        space: Any = env.observation_space
        with np.errstate(invalid="ignore"):  # of infinite bounds
            centre = space.low / 2 + space.high / 2
            half = space.high / 2 - space.low / 2
        bounded = (half > 0) & (half < WIDE)
        env.action_space.seed(0)
        seen = [env.reset(seed=0)[0]]
        for _ in range(1 if bounded.all() else PROBE):
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            seen += [observation, *([env.reset()[0]] if terminated or truncated else [])]
        found = np.stack(seen).astype(np.float64)
        if not np.isfinite(found).all():
            raise self._not_finite("an observation")
        variance = found.var(0)
        statistics = RunningMeanStd(shape=space.shape)
        statistics.mean = np.where(bounded, centre, found.mean(0))
        statistics.var = np.where(bounded, half**2, np.where(variance > 0, variance, 1))
        return statistics

    def _check_spaces(self, env: gym.Env) -> None:
        for what, wrapper in (("observation", "FlattenObservation"), ("action", "TransformAction")):
            space = getattr(env, f"{what}_space", None)
            if not isinstance(space, gym.spaces.Box):
                raise ConfigError(
                    f"{self.simulator} has {what}s of the kind {type(space).__name__}, and only vectors of real "
                    "numbers (Box) can be learned here; choose another environment, or wrap it so that it has them, as "
                    f"by gymnasium.wrappers.{wrapper}."
                )
        actions: Any = env.action_space
        bounds = np.isfinite([actions.low, actions.high]).all() and (actions.low < actions.high).all()
        if not (np.issubdtype(actions.dtype, np.floating) and bounds):
            raise ConfigError(
                f"{self.simulator} has actions without finite real bounds, a lower and an upper one ({actions}); give "
                "its action_space such bounds, low=-1 and high=1 for instance, and a dtype of real numbers."
            )

    def _check_steps(self, env: gym.Env) -> None:
        """One reset and one step by Gymnasium's interface, which older environments do not keep."""
        api = "as Gymnasium has it since 0.26 (gymnasium.utils.env_checker.check_env checks all of it)"
        inner = env
        while isinstance(inner, (TimeLimit, OrderEnforcing)):  # those of gym.make, which unpack what they get
            inner = inner.env
        found: Any = inner.reset(seed=0)
        if not (isinstance(found, tuple) and len(found) == 2):
            raise InputError(f"{self.simulator}: reset() must return (observation, info), {api}.")
        env.action_space.seed(0)
        step: Any = inner.step(env.action_space.sample())
        if not (isinstance(step, tuple) and len(step) == 5):
            raise InputError(
                f"{self.simulator}: step() must return (observation, reward, terminated, truncated, info), {api}."
            )
        for what, observation in (("reset()", found[0]), ("step()", step[0])):
            if (shape := np.shape(observation)) != env.observation_space.shape:
                raise InputError(
                    f"{self.simulator}: an observation of {what} has shape {shape}, and observation_space has "
                    f"{env.observation_space.shape}; let them be the same."
                )
        if np.ndim(step[1]) or np.asarray(step[1]).dtype.kind not in "biuf":
            raise InputError(f"{self.simulator}: step() gave the reward {step[1]!r}; it must be one number.")

    def _attempt(self, work: Callable[[], Any]) -> Any:
        """What a stranger's code brings, or one message that says where it failed."""
        try:
            return work()
        except InputError as error:
            raise ConfigError(error.args[0]) from None
        except (gym.error.UnregisteredEnv, gym.error.DeprecatedEnv, ModuleNotFoundError) as error:
            raise ConfigError(
                f"{self.simulator} cannot be used: {first_line(error).rstrip('.')}. Give the id of an environment that "
                "is installed, or MODULE:ID of another package's or of a file in this folder."
            ) from None
        except Exception as error:
            wanting = "environment creator" in str(error)  # gym.make's word for what makes it, and lacked an argument
            remedy = "Its arguments belong into gymnasium.register(..., kwargs={...})" if wanting else "Mend it"
            raise ConfigError(f"{self.simulator} cannot be used: {placed(error)}. {remedy}.") from None

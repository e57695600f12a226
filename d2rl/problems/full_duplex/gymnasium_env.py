"""The cell for Gymnasium: one cell, or many cells in one simulator; docs/environment.md has the tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from d2rl.common.errors import ConfigError, InputError
from d2rl.config.defaults import Config, FullDuplexConfig
from d2rl.config.load import from_keywords
from d2rl.config.schema import either
from d2rl.problems.full_duplex.checks import check_cell
from d2rl.problems.full_duplex.env import FullDuplexEnv
from d2rl.problems.full_duplex.observation import observe
from d2rl.problems.full_duplex.simulator import CellState
from d2rl.wireless.heads import make_head
from d2rl.wireless.link_rates import link_rates
from d2rl.wireless.wmmse import wmmse

Floats = NDArray[np.float32]

GAIN = (0.0, 13.0)  # log10(1 + power) / 3, and a rate in 10 bit/s/Hz; holds for every power below 3e38
PRIORITY = (-7.0, 89.0)  # ln w of every weight from 1e-3 to 3e38
NODE_BOUNDS = ((0.0, 1.0), (0.0, 1.0), GAIN, GAIN, GAIN, GAIN, PRIORITY)
EDGE_BOUNDS = (GAIN, GAIN, (0.0, 1.0), (0.0, 1.0))
ENDLESS = 2**31  # slots; the episodes are counted here, so the simulator must not drop cells by itself


def flat_features(state: CellState) -> Tensor:
    """What the agent sees of B cells, [B, 7 K + 4 K^2]: nodes link by link, then edges row by row.

    The features are those of :func:`observe`; the weights are the nodes' last one.
    """
    seen = observe(state.estimate, state.weights)
    return torch.cat([seen.nodes.flatten(1), seen.edges.flatten(1)], dim=-1)


class FullDuplexVectorEnv(VectorEnv[Floats, Floats, NDArray[Any]]):
    """Cells side by side in one batched simulator; their episodes begin and end together.

    Example::

        env = gymnasium.make_vec("d2rl/FullDuplex-v0", num_envs=64, downlink_users=3)

    :param num_envs: B
    :param reward_scale: bit/s/Hz of weighted sum rate that count as a reward of one
    :param wmmse: put the weighted sum rate of WMMSE on the same channels into info; takes most of the time
    :param autoreset_mode: what happens after the last slot: ``SameStep`` begins the next episode at once and
        keeps the last observation in ``info["final_obs"]``; ``NextStep`` does so on the next call of ``step``,
        whose actions are ignored and whose rewards are 0; ``Disabled`` waits for ``reset``
    :param device: of the simulator
    :param scenario: fields of :class:`d2rl.config.defaults.FullDuplexConfig`
    :raises ConfigError: an option that is none, or a value that cannot be
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    single_observation_space: spaces.Box
    single_action_space: spaces.Box

    def __init__(
        self,
        num_envs: int = 1,
        *,
        reward_scale: float = 1.0,
        wmmse: bool = False,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        device: str | torch.device = "cpu",
        **scenario: Any,
    ):
        if num_envs < 1:
            raise ConfigError(f"num_envs cannot be {num_envs}; it must be 1 or more.")
        if not reward_scale > 0:
            raise ConfigError(f"reward_scale cannot be {reward_scale}; it must be above 0, in bit/s/Hz.")
        try:
            self.mode = AutoresetMode(autoreset_mode)
        except ValueError:
            known = ", ".join(mode.value for mode in AutoresetMode)
            raise ConfigError(f"autoreset_mode cannot be {autoreset_mode!r}; it must be one of {known}.") from None
        self.num_envs, self.reward_scale, self.wmmse, self.device = num_envs, reward_scale, wmmse, device
        self.config, self.scenario = self._configured(scenario)
        self.metadata = {**self.metadata, "autoreset_mode": self.mode}
        self.single_observation_space, self.single_action_space = self._spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        # a stored state has no future: every slot is an episode
        stored = self.scenario.stored_states or self.scenario.channel_bank
        self.episode_length = 1 if stored else self.scenario.episode_length
        self.cells: Any = None
        self.slot = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Drop all cells anew.

        :param seed: begins the world of this seed; without it the present one goes on
        :param options: none are known
        :returns: observations [B, 7 K + 4 K^2] and an empty info
        :raises InputError: an option; ``reset_mask`` is none since all episodes end together
        """
        super().reset(seed=seed)
        if options:
            raise InputError(f"reset knows no option {', '.join(options)}: all cells begin their episodes together.")
        if self.cells is not None and seed is None:
            self.cells.reset()
        else:
            self.cells = self._begun(int(self.np_random.integers(2**31)) if seed is None else int(seed))
        self.slot = 0
        return self._observed(self.cells.state), {}

    def step(self, actions: Floats) -> tuple[Floats, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """One slot of every cell: decide, measure, move on.

        :param actions: [B, size] in [-1, 1]; what is outside counts as the nearest bound
        :returns: observations [B, 7 K + 4 K^2], rewards [B] (weighted sum rate over ``reward_scale``),
            terminations [B] (never), truncations [B] (after the last slot), info
        :raises InputError: actions of another shape, or not finite
        :raises gymnasium.error.ResetNeeded: before the first reset, or after an episode with ``Disabled``
        """
        if self.cells is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        never = np.zeros(self.num_envs, dtype=bool)
        if self.slot == self.episode_length:
            if self.mode == AutoresetMode.DISABLED:
                raise gymnasium.error.ResetNeeded("the episode has ended; call reset() before step()")
            observation, info = self.reset()
            return observation, np.zeros(self.num_envs), never, never.copy(), info
        rewards, measured = self._slot(self._checked(actions))
        self.slot += 1
        observation, info = self._observed(self.cells.state), self._vectorized(measured)
        ended = self.slot == self.episode_length
        if ended and self.mode == AutoresetMode.SAME_STEP:
            last = np.empty(self.num_envs, dtype=object)
            last[:] = list(observation)
            info = self._vectorized({"final_obs": last, "final_info": info})
            observation, _ = self.reset()
        return observation, rewards, never, np.full(self.num_envs, ended), info

    def _configured(self, options: dict[str, Any]) -> tuple[Any, FullDuplexConfig]:
        """A checked configuration from keyword arguments, and the scenario in it."""
        scenario = scenario_of(options)
        return scenario, scenario

    def _spaces(self) -> tuple[spaces.Box, spaces.Box]:
        """Observation and action space of one cell."""
        return spaces_of(self.config)

    def _begun(self, seed: int) -> Any:
        """The world of this seed, in its first slot."""
        return FullDuplexEnv(replace(self.config, episode_length=ENDLESS), self.num_envs, seed, self.device)

    def _slot(self, action: Tensor) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        """Decide, and move on: rewards, and what info tells of each cell."""
        measured = self._measured(self.cells, action)
        self.cells.advance()
        return measured

    def _features(self, state: Any) -> Tensor:
        """Observations [B, n]."""
        return flat_features(state)

    def _observed(self, state: Any) -> Floats:
        space = self.single_observation_space
        with torch.no_grad():
            features = self._features(state).cpu().numpy()
        return np.clip(features, space.low, space.high)  # a cosine may pass 1 by a rounding error

    @torch.no_grad()
    def _measured(self, cells: FullDuplexEnv, action: Tensor) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        """Rewards, and what info tells of each cell."""
        state = cells.state
        rates = cells.measure(state, action)
        down, up = (part.double().sum(-1) for part in rates.tensor_split([self.config.downlink_users], dim=-1))
        worth = (rates.double() * state.weights).sum(-1)
        told = {"rates": rates, "sum_rate": down + up, "downlink_rate": down, "uplink_rate": up}
        if self.wmmse:
            reference = link_rates(state.channels, *wmmse(state.estimate, weights=state.weights))
            told["wmmse"] = (reference.double() * state.weights).sum(-1)
        return (worth / self.reward_scale).cpu().numpy(), {name: one.cpu().numpy() for name, one in told.items()}

    def _checked(self, actions: Floats) -> Tensor:
        given = np.asarray(actions, dtype=np.float32)
        if given.shape != self.action_space.shape:
            raise InputError(f"actions have shape {given.shape}; this environment needs {self.action_space.shape}.")
        if not np.isfinite(given).all():
            raise InputError("actions hold NaN or infinite values; the policy that made them has diverged.")
        return torch.tensor(given, device=self.device)

    def _vectorized(self, told: dict[str, Any]) -> dict[str, Any]:
        """Each entry with the mask of the cells that have it, which is all of them."""
        return told | {f"_{name}": np.ones(self.num_envs, dtype=bool) for name in told}


class FullDuplexGymEnv(gymnasium.Env[NDArray[Any], NDArray[Any]]):
    """One cell.

    Example::

        env = gymnasium.make("d2rl/FullDuplex-v0", path_loss="nlos", bs_power=30.0)

    :param options: ``reward_scale``, ``wmmse``, ``device`` and the scenario, as of :class:`FullDuplexVectorEnv`
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012
    several: type[FullDuplexVectorEnv] = FullDuplexVectorEnv

    def __init__(self, **options: Any):
        if wrong := {"num_envs", "autoreset_mode"} & set(options):
            raise ConfigError(f"{either(wrong)} is for gymnasium.make_vec; gymnasium.make gives one cell.")
        self.cells = self.several(1, autoreset_mode=AutoresetMode.DISABLED, **options)
        self.observation_space = self.cells.single_observation_space
        self.action_space = self.cells.single_action_space

    @property
    def config(self) -> Any:
        """The scenario, a :class:`FullDuplexConfig`."""
        return self.cells.config

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Drop the users anew; a seed begins a world of its own. Returns the observation and an empty info."""
        super().reset(seed=seed)
        if self.cells.cells is None and seed is None:
            seed = int(self.np_random.integers(2**31))
        observation, info = self.cells.reset(seed=seed, options=options)
        return observation[0], info

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """One slot: decide, measure, move on.

        :param action: [size] in [-1, 1]; what is outside counts as the nearest bound
        :returns: observation, reward (weighted sum rate over ``reward_scale``), False, whether it was the last, info
        :raises InputError: an action of another shape, or not finite
        """
        observation, reward, _, truncated, info = self.cells.step(np.asarray(action, dtype=np.float32)[None])
        told = {name: value[0] for name, value in info.items() if not name.startswith("_")}
        told = {name: value if value.ndim else float(value) for name, value in told.items()}
        return observation[0], float(reward[0]), False, bool(truncated[0]), told


def scenario_of(options: dict[str, Any]) -> FullDuplexConfig:
    """A checked scenario from keyword arguments.

    :raises ConfigError: names the field, what it got and what it wants, or the nearest valid one
    """
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}
    config = from_keywords(plain, FullDuplexConfig)
    if config.objective != "weighted_sum":
        raise ConfigError(f"objective={config.objective} is for policies; rewards here are weighted sums of rates.")
    if config.feedback != "dense":
        raise ConfigError(f"feedback={config.feedback} is for training; rewards here are sums, and info has the rates.")
    check_cell(Config(scenario=config))
    return config


def spaces_of(config: FullDuplexConfig) -> tuple[spaces.Box, spaces.Box]:
    """Observation and action space of one cell."""
    links = config.downlink_users + config.uplink_users
    low, high = np.concatenate([np.tile(NODE_BOUNDS, (links, 1)), np.tile(EDGE_BOUNDS, (links * links, 1))]).T
    layout = make_head(config.head, config.transmit_antennas).layout
    size = layout.down * config.downlink_users + layout.up * config.uplink_users
    observation = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
    return observation, spaces.Box(-1.0, 1.0, (size,), np.float32)

"""The batched cell for Stable-Baselines3 (extra ``peers``)."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from d2rl.problems.full_duplex.gymnasium_env import Floats, FullDuplexVectorEnv


class CellVecEnv(VecEnv):
    """Cells side by side in one simulator, as a VecEnv.

    Example::

        SAC("MlpPolicy", CellVecEnv(64, reward_scale=10.0), gamma=0.0).learn(100_000)

    :param num_envs: B
    :param face: class of the simulator
    :param options: ``reward_scale``, ``device`` and the scenario, as of ``face``
    :raises ConfigError: an option that is none, or a value that cannot be
    """

    def __init__(self, num_envs: int, face: type[FullDuplexVectorEnv] = FullDuplexVectorEnv, **options: Any):
        self.env = face(num_envs, **{**options, "autoreset_mode": "SameStep"})
        super().__init__(num_envs, self.env.single_observation_space, self.env.single_action_space)

    def reset(self) -> Floats:
        """Drop all cells anew; in the world of the first seed that :meth:`seed` gave, if any."""
        observation, _ = self.env.reset(seed=self._seeds[0])
        self._reset_seeds()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions [B, size]; :meth:`step_wait` takes the step."""
        self.actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Observations [B, size], rewards [B], ends of episodes [B] and one info for each cell.

        An end is always a truncation: its info has ``TimeLimit.truncated`` and ``terminal_observation``.
        """
        observation, reward, _, truncated, told = self.env.step(self.actions)
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": bool(cut)} for cut in truncated]
        for cell in np.flatnonzero(truncated):
            infos[cell]["terminal_observation"] = told["final_obs"][cell]
        return observation, reward.astype(np.float32), truncated, infos

    def close(self) -> None:
        """Nothing is held."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The simulator's attribute, once for each cell."""
        return [getattr(self.env, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """:raises NotImplementedError: cells share one simulator"""
        raise NotImplementedError("the cells share one simulator; set the attribute on .env")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """:raises NotImplementedError: cells share one simulator"""
        raise NotImplementedError("the cells share one simulator; call the method on .env")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """False for each cell."""
        return [False] * len(list(self._get_indices(indices)))

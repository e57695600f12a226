"""What each learner minimises: the rewards that it learns from, and its loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from d2rl.algorithm.ddpg import Critic, DeterministicActor, critic_loss
from d2rl.algorithm.explorers import AENPNN
from d2rl.algorithm.explorers.state import KindsOfRows
from d2rl.algorithm.module import RLModule
from d2rl.algorithm.networks import MLPEncoder
from d2rl.algorithm.reports import beyond_baselines
from d2rl.algorithm.rewards import Case, raw_reward, to_scalar
from d2rl.common import distributed
from d2rl.config.defaults import AUTO
from d2rl.problems.base import Observation, Transition


class Losses(RLModule):
    """The outer module with its losses; who acts, and who learns when, is :class:`~d2rl.algorithm.agent.D2RL`."""

    actor: DeterministicActor
    critic: Critic
    target_actor: DeterministicActor
    target_critic: Critic
    aenpnn: AENPNN
    renpnn: Any
    senpnn: Any
    case: Case
    views: list[Any]
    weights: dict[str, tuple[nn.Parameter, ...]]

    @property
    def policy(self) -> DeterministicActor | AENPNN:
        """What decides now."""
        return self.aenpnn if self.stages["action"] else self.actor

    @property
    def policy_name(self) -> str:
        """Its name among the learners."""
        return "aenpnn" if self.stages["action"] else "actor"

    # ------------------------------------------------------------------ rewards

    def case_reward(self, utility: Tensor, observation: Observation) -> Tensor:
        """The measured reward of ``reward.case`` in units of ``reward_scale``, which RENPNN learns at any stage."""
        scale, reward = self.config.ddpg.reward_scale, self.case.reward(utility, observation)
        if self.case.per_entity:
            return reward * (self.problem.layout.entities**0.5 / scale)  # one unit for all numbers of entities
        return reward / scale

    def measured_reward(self, batch: Transition) -> Tensor:
        """The weighted sum before the reward stage, then the configured case: [B, M, 1 or K]."""
        if self.stages["reward"]:
            return self.case_reward(batch.utility, batch.observation)
        return raw_reward(batch.utility, batch.observation) / self.config.ddpg.reward_scale

    def reward_of(self, batch: Transition) -> Tensor:
        """The reward to learn from: generated where RENPNN's stage has begun and it is trusted, else measured."""
        if self.trusts_generated and self.splits_reports:
            with torch.no_grad():
                beyond = self.renpnn.generate(batch.observation, batch.view, self.config.reward.samples, self.generator)
            return self.case_reward(batch.observation.baseline.unsqueeze(1) + beyond, batch.observation)
        if self.trusts_generated:
            assert batch.generated is not None  # every transition has one where rewards are generated
            return batch.generated
        measured = self.measured_reward(batch)
        if batch.measured is None or not self.stages["reward"]:
            return measured
        assert batch.generated is not None  # in the place of what nobody measures
        return torch.where(batch.measured[:, None, None], measured, batch.generated)

    @property
    def learns_per_entity(self) -> bool:
        """Whether the critic has a target for every entity."""
        return self.stages["reward"] and self.case.per_entity

    @property
    def generates_reward(self) -> bool:
        """Whether RENPNN takes part."""
        return self.config.stages.reward is not None and self.config.reward.generated

    def rejects(self, stage: str) -> bool:
        """Whether auto has left a stage out, whose explorer then rests."""
        return getattr(self.config.stages, stage) == AUTO and self.decided.get(stage) is False

    @property
    def splits_reports(self) -> bool:
        """Whether RENPNN generates what links and slots had of reports."""
        return self.world.windows is not None

    @property
    def trusts_generated(self) -> bool:
        """Whether the agent learns from generated rewards now."""
        return self.generates_reward and self.stages["reward"] and not self.fallback

    def calibrate(self, batch: Transition) -> None:
        """Set critic and RENPNN to the level of the first rewards.

        Of a critic that came from a checkpoint this moves the constant alone, on which no choice between actions
        depends; a RENPNN that came from one keeps the unit in which it has learned.
        """
        for module in self.modules():
            if isinstance(module, MLPEncoder) and module.standardise:
                module.calibrate(batch.observation)
                distributed.average_(*module.buffers())
        reward = self.reward_of(batch)
        if bool(reward.isfinite().all()):
            self.critic.calibrate(batch.observation, batch.view, reward)
            if not self.reward_unit_known:
                self.renpnn.calibrate(self.rewards_to_explore(batch))
        distributed.average_(
            *self.critic.buffers(recurse=False), self.critic.out.bias, self.renpnn.centre, self.renpnn.spread
        )

    def rewards_to_explore(self, batch: Transition) -> Tensor:
        """What RENPNN's unit is made of: measured rewards, or for reports their equal shares beyond the baselines."""
        if self.splits_reports:
            return beyond_baselines(batch, 1) / self.problem.layout.entities
        return self.case_reward(batch.utility, batch.observation)

    # ------------------------------------------------------------------ DDPG

    def critic_loss(self, batch: Transition) -> Tensor:
        """:meth:`critic_error`, logged."""
        loss = self.critic_error(batch)
        self.means.add("losses/critic", loss)
        return loss

    def critic_error(self, batch: Transition) -> Tensor:
        """Q against the reward, and the discounted next value when gamma > 0."""
        gamma, reward = self.config.ddpg.gamma, self.reward_of(batch)
        discount = gamma if batch.discount is None else batch.discount[:, None, None]
        target = reward + discount * self.next_value(batch) if gamma > 0 else reward
        unit = self.critic.unit if self.critic.own_units else None
        return critic_loss(self.critic(batch.observation, batch.view), target, unit)

    @torch.no_grad()
    def next_value(self, batch: Transition) -> Tensor:
        """Q'(s', mu'(s')), [B, 1, K or 1], zero where the task ended; an episode that was only cut goes on."""
        following, terminated = batch.following, batch.terminated
        assert following is not None
        assert terminated is not None
        policy = self.aenpnn if self.stages["action"] else self.target_actor
        action = policy.sample(following, 1, self.generator).tanh()
        value = self.target_critic(following, self.view(following, action)) * ~terminated[:, None, None]
        return value if self.learns_per_entity else value.sum(-1, keepdim=True)

    @property
    def chain_step(self) -> int:
        """The step of AENPNN's chain whose estimate this update ascends."""
        return 1 + self.updates % min(self.config.action.gradient_steps, self.config.action.steps)

    def policy_loss(self, batch: Transition) -> Tensor:
        """Ascend Q; AENPNN may also imitate the better of the actions measured for each state."""

        def quality() -> Tensor:
            return to_scalar(self.reward_of(batch), batch.observation.weights)

        if self.imagines:
            made = self.synthetic(self.world.problem, batch.observation, self.corruption)
            batch = replace(batch, observation=made)
        with held(self.weights["critic"]):
            loss, metrics = self.policy.loss(batch, self.value, quality, self.generator, self.chain_step)
        for name, value in metrics.items():
            self.means.add(f"losses/{name}", value)
        return loss

    def view(self, observation: Observation, action: Tensor, decision: Any = None) -> Tensor:
        """What the critic sees of actions, [B, M, K, V]."""
        return self.views[self.visited](observation, action, decision)

    def value(self, observation: Observation, action: Tensor) -> Tensor:
        """What the critic says of actions [B, M, size]: [B, M].

        With ``ddpg.analytic`` the closed-form utility on what is known stands in its place.
        """
        if self.config.ddpg.analytic:
            problem: Any = self.world.problem
            with torch.autocast(self.device.type, enabled=False):
                utility = problem.utility(observation, problem.decode(observation, action))
            return raw_reward(utility, observation).squeeze(-1) / self.config.ddpg.reward_scale
        return self.critic_value(observation, self.view(observation, action))

    def critic_value(self, observation: Observation, view: Tensor) -> Tensor:
        """What the critic says of actions as it sees them, [B, M]."""
        value = self.critic(observation, view)
        return to_scalar(value, observation.weights) if self.learns_per_entity else value.sum(-1)

    # ------------------------------------------------------------------ explorers

    def reward_loss(self, batch: Transition) -> Tensor:
        """RENPNN's denoising loss on measured rewards, or on sums of them."""
        if self.world.windows is not None:
            total = beyond_baselines(batch, self.world.windows.slots)
            loss, metrics = self.renpnn.loss_of_sums(batch.observation, batch.view, total, self.generator)
            self.means.add("losses/renpnn", metrics["loss"])
            self.means.add("renpnn/left_over", metrics["left_over"])
            return loss
        reward = self.case_reward(batch.utility, batch.observation)
        counted = () if batch.measured is None else (batch.measured,)
        loss, metrics = self.renpnn.loss(batch.observation, batch.view, reward, self.generator, *counted)
        self.means.add("losses/renpnn", metrics["loss"])
        return loss

    def state_loss(self, rows: KindsOfRows) -> Tensor:
        """SENPNN's denoising loss on rows of real states."""
        assert self.senpnn is not None
        loss, metrics = self.senpnn.loss(rows, self.generator)
        self.means.add("losses/senpnn", metrics["loss"])
        return loss

    @property
    def corruption(self) -> int | None:
        """Step p to which real rows are corrupted; None is P."""
        return self.config.state.corrupt or None

    def synthetic(self, problem: Any, state: Any, step: int | None = None) -> Any:
        """A state, or an observation, with rows that SENPNN made of its own.

        :param step: p to which real rows are corrupted; None is P
        """
        assert self.senpnn is not None  # its stage begins only where the problem can be diffused
        made = self.senpnn.generate(problem.rows(state), step, generator=self.generator)
        return problem.with_rows(state, made, self.world.generator)


@contextmanager
def held(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Weights that no gradient is computed for."""
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)

"""AENPNN: the action explorer."""

from __future__ import annotations

from collections.abc import Callable

import lightning as L
import torch
from torch import Tensor, nn

from d2rl.algorithm.ddpg import saturation
from d2rl.algorithm.fused_adam import FusedAdam
from d2rl.algorithm.networks import make_encoder
from d2rl.algorithm.networks.action_chain import ActionChain
from d2rl.algorithm.straight_path import paired
from d2rl.config.defaults import AENPNNConfig, RunConfig
from d2rl.problems.base import Layout, Observation, Problem, Transition

ASCENDING = ("chain", "mixed")  # objectives in which the chain itself ascends Q
IMITATING = ("weighted", "mixed")  # those that learn from the actions of the replay
CALM_SHARE = 0.5  # weight of the action without noise, beside the 1 that all actions of its group share


class AENPNN(ActionChain, L.LightningModule):
    """Action explorer: refines noise into an action, conditioned on the state (Mode I).

    Its chain is that of :class:`ActionChain`; here it learns.

    Example::

        explorer = AENPNN(encoder, problem.layout, 32, AENPNNConfig(steps=6))
        loss, metrics = explorer.imitate(observation, candidates, weights, generator)
        action = explorer.sample(observation, 16, generator).tanh()  # 16 candidates per state

    :param encoder: state -> [B, K, width]
    :param layout: of the action      :param width: of the embeddings
    :param config: P, objective and what it weighs
    :param penalty: weight of the squared output before tanh
    :param rate: learning rate
    """

    def __init__(
        self,
        encoder: nn.Module,
        layout: Layout,
        width: int,
        config: AENPNNConfig,
        penalty: float = 1e-2,
        rate: float = 5e-3,
    ):
        super().__init__(encoder, layout, width, config)
        self.penalty, self.rate = penalty, rate

    @classmethod
    def build(cls, config: RunConfig, problem: Problem) -> AENPNN:
        """The explorer of a configuration."""
        encoder, width = make_encoder(config.network, problem), config.network.width
        ddpg = config.ddpg
        return cls(encoder, problem.layout, width, config.action, ddpg.saturation_penalty, ddpg.actor_rate)

    def imitate(
        self,
        observation: Observation,
        candidates: Tensor,
        weights: Tensor,
        generator: torch.Generator,
        embedding: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Objective ``weighted``: regress the clean action on candidates, each with its weight.

        No gradient goes through the chain, so that different candidates may stay different modes.

        :param candidates: [B, M, size]
        :param weights: [B, M], adding up to one over M
        :param noise: of each candidate, [B, M, K, layout.width]; None: drawn
        :returns: the loss, and the denoiser's output before tanh
        """
        embedding = self.encode(observation) if embedding is None else embedding
        clean = observation.layout.to_entities(candidates)
        step = torch.randint(1, self.schedule.steps + 1, clean.shape[:2], generator=generator, device=clean.device)
        if noise is None:
            noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        noisy = self.schedule.corrupt(clean, step, noise)
        output = self.denoiser(embedding, noisy, step).float()
        error = (output.tanh() - clean).square().mean((-2, -1))
        return (weights * error).sum(-1).mean(), output

    @torch.no_grad()
    def pairs(
        self, observation: Observation, value: Callable[[Observation, Tensor], Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Objective ``flow``: actions from all over their range, drawn by their Q, each with a noise near it.

        None of them depends on the policy, so no mode is lost because the policy has left it.

        :param value: Q of actions [B, M, size]: [B, M]
        :returns: M_c actions of each state, [B, M_c, size]; their noises, [B, M_c, K, layout.width]
        """
        shape = observation.batch, self.config.samples, observation.layout.size
        action = 2 * torch.rand(shape, generator=generator, device=observation.nodes.device) - 1
        weights = group_weights(value(observation, action), self.config.temperature)
        return paired(observation.layout, action, weights, generator)

    def loss(
        self,
        batch: Transition,
        value: Callable[[Observation, Tensor], Tensor],
        quality: Callable[[], Tensor],
        generator: torch.Generator,
        step: int = 1,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The configured objective: ``chain``, ``weighted``, both (``mixed``), or ``flow``.

        :param value: Q of actions [B, M, size], differentiable: [B, M]
        :param quality: what the reward says of the batch's own actions: [B, M]
        :param step: p, the step of the chain that ascends Q
        :returns: loss; metrics, detached
        """
        config, observation = self.config, batch.observation
        embedding, metrics = self.encode(observation), {}
        loss = torch.zeros((), device=batch.action.device)
        if config.objective in ASCENDING:
            output = self.estimate(observation, config.samples, step, generator, embedding=embedding)
            q = value(observation, output.tanh())
            share = group_weights(q.detach(), config.temperature)
            ascended = (share * q).sum(-1)
            if config.calm_first:  # what one decision is must not wait until it is the best of its group
                ascended = ascended + CALM_SHARE * q[:, 0]
            loss = loss - ascended.mean() + self.penalty * saturation(output)
            metrics["aenpnn_chain"] = -q.mean().detach()
        if config.objective != "chain":
            if config.objective == "flow":
                action, noise = self.pairs(observation, value, generator)
                weights = torch.full(action.shape[:2], 1 / config.samples, device=action.device)
            else:
                action, noise = batch.action, None
                weights = group_weights(quality(), config.temperature)
            error, output = self.imitate(observation, action, weights, generator, embedding, noise)
            loss = loss + config.weighted_scale * error + self.penalty * saturation(output)
            metrics["aenpnn_weighted"] = error.detach()
        return loss, metrics

    def training_step(self, batch: tuple[Observation, Tensor, Tensor], batch_index: int) -> Tensor:
        """Imitate weighted candidates, when this module has a Trainer of its own."""
        generator = torch.Generator(batch[1].device).manual_seed(int(self.global_step))  # type: ignore[arg-type]
        loss, _ = self.imitate(*batch, generator)
        self.log("loss", loss)  # type: ignore[operator]
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over encoder and denoiser."""
        return FusedAdam(self.parameters(), lr=self.rate)


def group_weights(value: Tensor, temperature: float) -> Tensor:
    """Weights of M candidates from their values [B, M], standardised within each state.

    Only differences within a state count (group-relative advantage), so no critic is needed.
    """
    advantage = value - value.mean(-1, keepdim=True)
    spread = value.std(-1, keepdim=True, unbiased=False)
    return torch.softmax(advantage / (temperature * (spread + 1e-3)), dim=-1)

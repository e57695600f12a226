"""AENPNN: the action explorer."""

from __future__ import annotations

from collections.abc import Callable

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2rl.algorithm.ddpg import saturation
from d2rl.algorithm.diffusion import DiffusionSchedule
from d2rl.config.defaults import AENPNNConfig
from d2rl.problems.base import Layout, Observation, Transition


class ActionDenoiser(nn.Module):
    """Estimates the clean numbers of every link from noisy ones, given the embedding of the state.

    Links see each other's noisy numbers only through their mean, which is enough to agree on a mode.

    :param numbers: of one link      :param width: of the hidden layers      :param steps: P
    """

    def __init__(self, numbers: int, width: int, steps: int):
        super().__init__()
        self.own, self.mean = nn.Linear(numbers, width), nn.Linear(numbers, width)
        self.step = nn.Embedding(steps + 1, width)
        self.hidden, self.output = nn.Linear(width, width), nn.Linear(width, numbers)
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)

    def forward(self, embedding: Tensor, noisy: Tensor, step: int | Tensor) -> Tensor:
        """The clean numbers before tanh, [B, M, K, numbers].

        :param embedding: [B, 1, K, width]; tells downlink from uplink
        :param noisy: [B, M, K, numbers]
        :param step: p, an int or integers [B, M]
        """
        level = self.step(step).unsqueeze(-2) if isinstance(step, Tensor) else self.step.weight[step]
        context = self.mean(noisy.mean(-2, keepdim=True)) + level
        hidden = F.relu(self.own(noisy) + embedding + context)
        return self.output(F.relu(self.hidden(hidden)))


class AENPNN(L.LightningModule):
    """Action explorer: refines noise into an action, conditioned on the state (Mode I).

    The state is encoded once; then P cheap reverse steps estimate the clean action (x0-prediction),
    each through tanh, so that no step can leave the action's range.

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
        super().__init__()
        self.config, self.penalty, self.rate = config, penalty, rate
        self.schedule = DiffusionSchedule(config.steps)
        self.encoder, self.condition = encoder, nn.Linear(width, 2 * width)
        self.denoiser = ActionDenoiser(layout.width, 2 * width, config.steps)

    def encode(self, observation: Observation) -> Tensor:
        """What all reverse steps share: [B, 1, K, 2 width]."""
        return self.condition(self.encoder(observation)).unsqueeze(1)

    def sample(
        self,
        observation: Observation,
        count: int,
        generator: torch.Generator | None = None,
        noises: Tensor | None = None,
    ) -> Tensor:
        """Draw ``count`` actions for each state, before tanh.

        :param generator: of the chain's noise, or
        :param noises: [P, B, count, K, layout.width]
        :returns: [B, count, size]
        """
        return self.estimate(observation, count, 1, generator, noises)

    def estimate(
        self,
        observation: Observation,
        count: int,
        step: int,
        generator: torch.Generator | None = None,
        noises: Tensor | None = None,
        embedding: Tensor | None = None,
    ) -> Tensor:
        """The clean actions that step p estimates, before tanh; the gradient goes through that step alone.

        :param step: p; the estimate of step 1 is the chain's sample
        :param embedding: of :meth:`encode`, where it is at hand
        :returns: [B, count, size]
        """
        embedding = self.encode(observation) if embedding is None else embedding
        layout, schedule = observation.layout, self.schedule
        with torch.no_grad():
            shape = (observation.batch, count, layout.entities, layout.width) if noises is None else None
            noisy = schedule.reverse(
                lambda xp, p: self.denoiser(embedding, xp, p).float().tanh(),
                shape,
                sampler=self.config.sampler,
                generator=generator,
                noises=noises,
                stop=step,
            )
        return layout.to_flat(self.denoiser(embedding, noisy, step).float())

    def imitate(
        self,
        observation: Observation,
        candidates: Tensor,
        weights: Tensor,
        generator: torch.Generator,
        embedding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Objective ``weighted``: regress the clean action on candidates, each with its weight.

        No gradient goes through the chain, so that different candidates may stay different modes.

        :param candidates: [B, M, size]
        :param weights: [B, M], adding up to one over M
        :returns: the loss, and the denoiser's output before tanh
        """
        embedding = self.encode(observation) if embedding is None else embedding
        clean = observation.layout.to_entities(candidates)
        step = torch.randint(1, self.schedule.steps + 1, clean.shape[:2], generator=generator, device=clean.device)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        noisy = self.schedule.corrupt(clean, step, noise)
        output = self.denoiser(embedding, noisy, step).float()
        error = (output.tanh() - clean).square().mean((-2, -1))
        return (weights * error).sum(-1).mean(), output

    def loss(
        self,
        batch: Transition,
        value: Callable[[Observation, Tensor], Tensor],
        quality: Callable[[], Tensor],
        generator: torch.Generator,
        step: int = 1,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The configured objective: ``chain``, ``weighted``, or both.

        :param value: Q of actions [B, M, size], differentiable: [B, M]
        :param quality: what the reward says of the batch's own actions: [B, M]
        :param step: p, the step of the chain that ascends Q
        :returns: loss; metrics, detached
        """
        config, observation = self.config, batch.observation
        embedding, metrics = self.encode(observation), {}
        loss = torch.zeros((), device=batch.action.device)
        if config.objective != "weighted":
            output = self.estimate(observation, config.samples, step, generator, embedding=embedding)
            q = value(observation, output.tanh())
            share = group_weights(q.detach(), config.temperature)
            loss = loss - (share * q).sum(-1).mean() + self.penalty * saturation(output)
            metrics["aenpnn_chain"] = -q.mean().detach()
        if config.objective != "chain":
            weights = group_weights(quality(), config.temperature)
            error, output = self.imitate(observation, batch.action, weights, generator, embedding)
            loss = loss + config.weighted_scale * error + self.penalty * saturation(output)
            metrics["aenpnn_weighted"] = error.detach()
        return loss, metrics

    def training_step(self, batch: tuple[Observation, Tensor, Tensor], batch_index: int) -> Tensor:
        """Imitate weighted candidates, when this module has a Trainer of its own."""
        generator = torch.Generator(self.device).manual_seed(self.global_step)
        loss, _ = self.imitate(*batch, generator)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over encoder and denoiser."""
        return torch.optim.Adam(self.parameters(), lr=self.rate, fused=True)


def group_weights(value: Tensor, temperature: float) -> Tensor:
    """Weights of M candidates from their values [B, M], standardised within each state.

    Only differences within a state count (group-relative advantage), so no critic is needed.
    """
    advantage = value - value.mean(-1, keepdim=True)
    spread = value.std(-1, keepdim=True, unbiased=False)
    return torch.softmax(advantage / (temperature * (spread + 1e-3)), dim=-1)

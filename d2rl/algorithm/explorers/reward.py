"""RENPNN: the reward explorer, and the rewards that it learns to generate."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2rl.algorithm.diffusion import DiffusionSchedule
from d2rl.algorithm.fused_adam import FusedAdam
from d2rl.algorithm.networks import make_transition, make_view
from d2rl.algorithm.rewards import level_and_unit, reward_case
from d2rl.config.defaults import RunConfig
from d2rl.problems.base import Observation, Problem

NEWEST = 0.02  # weight of the newest batch in the mean errors of the chain's estimates


class RewardDenoiser(nn.Module):
    """Estimates the clean reward from a noisy one, given the embedding of state and action.

    :param width: of the embeddings      :param steps: P
    """

    def __init__(self, width: int, steps: int):
        super().__init__()
        self.noisy = nn.Linear(1, width)
        self.step = nn.Embedding(steps + 1, width)
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, 1)

    def forward(self, embedding: Tensor, noisy: Tensor, step: int | Tensor) -> Tensor:
        """The clean reward [..., K or 1] from embeddings [..., K or 1, width], at one step or at those of a tensor."""
        return self.out(self.features(embedding, noisy, step)).squeeze(-1)

    def features(self, embedding: Tensor, noisy: Tensor, step: int | Tensor) -> Tensor:
        """What the estimate is made of, [..., K or 1, width]."""
        level = self.step(step).unsqueeze(-2) if isinstance(step, Tensor) else self.step.weight[step]
        hidden = F.relu(embedding + self.noisy(noisy.unsqueeze(-1)) + level)
        return F.relu(self.hidden(hidden))


class RENPNN(L.LightningModule):
    """Reward explorer: generates a discriminative reward from noise (Mode I).

    Conditioned on state and action, P reverse steps turn Gaussian noise into one reward per link, or
    into one for all. Trained by denoising measured rewards (x0-prediction). For ``cvar`` the spread of rewards counts,
    which a few steps would shrink: there each adds what its estimates leave open
    (:meth:`DiffusionSchedule.noise_factors`).

    Example::

        explorer = RENPNN(transition, width=32, steps=6, per_link=True)
        loss, metrics = explorer.loss(observation, views, measured, generator)
        reward = explorer.generate(observation, views, samples=4, generator=generator)  # [B, M, K]

    :param transition: (state, views of actions) -> [B, M, K, width]
    :param width: of the embeddings      :param steps: P
    :param per_link: one reward per link, else one for the state
    :param risk: ``mean`` of the generated rewards, or ``cvar``, the mean of their worst part
    :param quantile: the worst part that cvar averages, in (0, 1]
    :param rate: learning rate
    :param entities: each of them then has a level and a unit of its own; None: all share one
    """

    centre: Tensor
    spread: Tensor
    errors: Tensor

    def __init__(
        self,
        transition: nn.Module,
        width: int,
        steps: int,
        per_link: bool,
        risk: str = "mean",
        quantile: float = 0.25,
        rate: float = 3e-3,
        entities: int | None = None,
    ):
        super().__init__()
        self.schedule = DiffusionSchedule(steps)
        self.transition, self.denoiser = transition, RewardDenoiser(width, steps)
        self.per_link, self.risk, self.quantile, self.rate = per_link, risk, quantile, rate
        own = () if entities is None else (entities,)
        self.register_buffer("centre", torch.zeros(own))
        self.register_buffer("spread", torch.ones(own))
        self.register_buffer("errors", torch.zeros(steps + 1))  # squared, of the estimates at each step

    @classmethod
    def build(cls, config: RunConfig, problem: Problem) -> RENPNN:
        reward, width = config.reward, config.network.width
        transition = make_transition(config.network, problem, make_view(config.network, problem)[1])
        per_link = reward_case(reward.case).per_entity
        own = problem.layout.entities if per_link and config.network.standardise else None
        return cls(transition, width, reward.steps, per_link, reward.risk, reward.quantile, reward.rate, own)

    def loss(
        self,
        observation: Observation,
        view: Tensor,
        reward: Tensor,
        generator: torch.Generator,
        measured: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of the clean reward estimated from a corrupted one.

        :param view: of the actions, [B, M, K, view]
        :param reward: [B, M, K or 1]
        :param measured: [B] bool, the states whose rewards were measured; the others do not count. None: all
        :returns: loss; metrics, detached
        """
        target = (reward - self.centre) / self.spread
        embedding = self._embed(observation, view)
        steps, shape, device = self.schedule.steps, target.shape, target.device
        step = torch.randint(1, steps + 1, shape[:2], generator=generator, device=device)
        noise = torch.randn(shape, generator=generator, device=device)
        estimate = self.denoiser(embedding, self.schedule.corrupt(target, step, noise), step).float()
        errors = (estimate - target).square().mean(-1)
        loss = counted_mean(errors, measured)
        if measured is not None:
            step = step.masked_fill(~measured.unsqueeze(-1), -1)  # no step of the chain
        if self.risk == "cvar":
            self._remember(errors.detach(), step)
        return loss, {"loss": loss.detach()}

    def generate(self, observation: Observation, view: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        """Generated rewards after ``risk``: [B, M, K or 1], in the unit of the measured ones.

        With ``cvar`` each state and action is judged by the worst part of its samples, ranked by their
        sum over links.
        """
        return self._risked(self.draw(observation, view, samples, generator))

    def draw(self, observation: Observation, view: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        """Several rewards of each link or state, [B, M, samples, K or 1], in the unit of the measured ones."""
        keeps_spread = self.risk == "cvar"
        factors = self.schedule.noise_factors(self.errors[:, None, None]) if keeps_spread else None
        return self._chain(self._embed(observation, view), samples, generator, factors) * self.spread + self.centre

    def _chain(
        self, embedding: Tensor, samples: int, generator: torch.Generator, factors: Tensor | None = None
    ) -> Tensor:
        """Several draws for each embedding, [B, M, samples, K or 1], in the unit of diffusion."""
        several = embedding.unsqueeze(2)
        shape = (*embedding.shape[:2], samples, embedding.shape[2], 1)

        def denoise(noisy: Tensor, step: int) -> Tensor:
            return self.denoiser(several, noisy.squeeze(-1), step).unsqueeze(-1).float()

        return self.schedule.reverse(denoise, shape, generator=generator, noise_factors=factors).squeeze(-1)

    def _risked(self, drawn: Tensor) -> Tensor:
        """One reward [B, M, K or 1] of several samples [B, M, samples, K or 1]."""
        if self.risk == "cvar":
            worst = max(1, round(self.quantile * drawn.shape[2]))
            order = drawn.sum(-1).argsort(dim=2)[:, :, :worst]
            drawn = drawn.gather(2, order.unsqueeze(-1).expand(-1, -1, -1, drawn.shape[-1]))
        return drawn.mean(2)

    @torch.no_grad()
    def calibrate(self, reward: Tensor) -> None:
        """Fix the level and unit in which rewards are diffused from a first batch of measured ones, [B, M, K or 1]."""
        level, unit = level_and_unit(reward, per_entity=self.centre.ndim > 0)
        self.centre.copy_(level)
        self.spread.copy_(unit)

    def training_step(self, batch: tuple[Observation, Tensor, Tensor], batch_index: int) -> Tensor:
        """Denoise measured rewards, when this module has a Trainer of its own."""
        generator = torch.Generator(self.device).manual_seed(self.global_step)
        loss, _ = self.loss(*batch, generator)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over the conditioning network and the denoiser."""
        return FusedAdam(self.parameters(), lr=self.rate)

    @torch.no_grad()
    def _remember(self, error: Tensor, step: Tensor) -> None:
        """Take squared errors of estimates into the means of their steps, [B, M] both."""
        own = (step.unsqueeze(-1) == torch.arange(len(self.errors), device=step.device)).to(error.dtype)
        newest = (own * error.unsqueeze(-1)).sum((0, 1)) / own.sum((0, 1))
        self.errors.lerp_(torch.where(newest.isfinite(), newest, self.errors), NEWEST)  # NaN of steps not drawn

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        state_dict.setdefault(f"{prefix}errors", self.errors)  # older checkpoints have none
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _embed(self, observation: Observation, view: Tensor) -> Tensor:
        embedding = self.transition(observation, view)
        return embedding if self.per_link else embedding.mean(-2, keepdim=True)


def counted_mean(values: Tensor, measured: Tensor | None) -> Tensor:
    """The mean of values [B, M] over the states whose rewards were measured, [B] bool, or None where all were."""
    if measured is None:
        return values.mean()
    counted = measured.unsqueeze(-1).expand_as(values)
    return (values * counted).sum() / counted.sum().clamp_min(1)


def rank_correlation(generated: Tensor, measured: Tensor) -> Tensor:
    """Spearman correlation of two values of M actions within a state, averaged over states.

    :param generated: [B, M]      :param measured: [B, M]
    """
    ranks = [value.argsort(-1).argsort(-1).to(torch.float32) for value in (generated, measured)]
    first, second = (rank - rank.mean(-1, keepdim=True) for rank in ranks)
    return ((first * second).sum(-1) / (first.square().sum(-1) * second.square().sum(-1)).sqrt().clamp_min(1e-9)).mean()

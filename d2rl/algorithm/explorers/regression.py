"""The control of RENPNN: rewards by regression, with a Gaussian spread, without diffusion."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2rl.algorithm.explorers.reward import RENPNN, counted_mean
from d2rl.problems.base import Observation

DOUBT = 7.0  # logarithms of variances, in squared units of diffusion, lie within this of the middle one
MIDDLE = -3.0


class Moments(nn.Module):
    """Mean and variance of rewards from embeddings.

    The variance takes what the mean has learned and does not shape it: a likelihood that did made the mean worse.

    :param width: of the embeddings
    """

    def __init__(self, width: int):
        super().__init__()
        self.hidden, self.mean, self.doubt = nn.Linear(width, width), nn.Linear(width, 1), nn.Linear(width, 1)

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance, [..., K] both, in units of diffusion, from [..., K, width]."""
        hidden = F.relu(self.hidden(embedding))
        doubt = self.doubt(hidden.detach()).squeeze(-1).float()
        return self.mean(hidden).squeeze(-1).float(), (MIDDLE + DOUBT * (doubt / DOUBT).tanh()).exp()


class FromMoments(RENPNN):
    """A reward explorer that knows mean and variance of every reward."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.moments = Moments(self.denoiser.out.in_features)

    def generate(self, observation: Observation, view: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        """Rewards after ``risk``, [B, M, K or 1], in the unit of those learned from; their mean is that of no draws."""
        if self.risk == "mean":
            return self.moments(self._embed(observation, view))[0] * self.spread + self.centre
        return self._risked(self.draw(observation, view, samples, generator))

    def draw(self, observation: Observation, view: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        """Several rewards of each link or state, [B, M, samples, K or 1], in the unit of those learned from."""
        embedding = self._embed(observation, view)
        mean, variance = (moment.unsqueeze(2) for moment in self.moments(embedding))
        return (mean + variance.sqrt() * self._noise(embedding, samples, generator)) * self.spread + self.centre

    def _noise(self, embedding: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        """Gaussian draws of mean 0 and variance 1, [B, M, samples, K or 1]."""
        shape = (*embedding.shape[:2], samples, embedding.shape[2])
        return torch.randn(shape, generator=generator, device=embedding.device)


class RegressedRewards(FromMoments):
    """Measured rewards by regression: their mean by least squares, their variance by likelihood, Gaussian draws.

    What RENPNN is compared with: the same conditioning network, ``risk`` and guard.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        del self.denoiser

    def loss(
        self,
        observation: Observation,
        view: Tensor,
        reward: Tensor,
        generator: torch.Generator,
        measured: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of the mean, and the likelihood of what it leaves; as :meth:`RENPNN.loss`."""
        mean, variance = self.moments(self._embed(observation, view))
        error = (mean - (reward - self.centre) / self.spread).square()
        likelihood = (variance.log() + error.detach() / variance) / 2
        loss = counted_mean(error.mean(-1), measured)
        return loss + counted_mean(likelihood.mean(-1), measured), {"loss": loss.detach()}

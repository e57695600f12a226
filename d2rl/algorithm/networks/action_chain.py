"""The reverse chain that refines noise into an action: the part of AENPNN that decides."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2rl.algorithm.diffusion import Denoiser, DiffusionSchedule
from d2rl.algorithm.straight_path import StraightPath
from d2rl.config.defaults import AENPNNConfig
from d2rl.problems.base import Layout, Observation


class ActionDenoiser(nn.Module):
    """Estimates the clean numbers of every link from noisy ones, given the embedding of the state.

    Links see each other's noisy numbers only through their mean, which is enough to agree on a mode that all share.
    With ``exchange`` they see the mean of each other's hidden features, too, which tells whose numbers they are.

    :param numbers: of one link      :param width: of the hidden layers      :param steps: P
    :param exchange: whether they do
    """

    def __init__(self, numbers: int, width: int, steps: int, exchange: bool = False):
        super().__init__()
        self.own, self.mean = nn.Linear(numbers, width), nn.Linear(numbers, width)
        self.step = nn.Embedding(steps + 1, width)
        self.hidden, self.output = nn.Linear(width, width), nn.Linear(width, numbers)
        self.others = nn.Linear(width, width, bias=False) if exchange else None
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
        return self.output(F.relu(self._second(hidden)))

    def conditioned(self, embedding: Tensor, samples: int) -> Denoiser:
        """The same for one embedding, after tanh and without a gradient: what all steps share is computed once.

        Numbers come first, [numbers, B, M, K]: so the thin products take a third of the time.

        :param samples: M
        """
        own, mean, output = self.own.weight.t(), self.mean.weight.t(), self.output
        offsets = self.step.weight + (self.own.bias + self.mean.bias)
        known, bias = embedding.expand(-1, samples, -1, -1).flatten(0, 2), output.bias.unsqueeze(1)

        def estimate(noisy: Tensor, step: int) -> Tensor:
            context = torch.addmm(offsets[step], noisy.mean(-1).flatten(1).t(), mean)
            hidden = torch.addmm(known, noisy.flatten(1).t(), own).view(*noisy.shape[1:], -1)
            hidden = hidden.add_(context.view(*noisy.shape[1:3], 1, -1)).relu_()
            hidden = self._second(hidden).relu_().flatten(0, 2)
            return torch.addmm(bias, output.weight, hidden.t()).view(noisy.shape).float().tanh_()

        return estimate

    def _second(self, hidden: Tensor) -> Tensor:
        if self.others is None:
            return self.hidden(hidden)
        return self.hidden(hidden) + self.others(hidden.mean(-2, keepdim=True))


class ActionChain(nn.Module):
    """Draws actions: the state is encoded once, then P cheap reverse steps estimate the clean action (x0-prediction).

    Each estimate goes through tanh, so that no step can leave the action's range. With ``objective=flow`` the steps
    follow a straight path, else a diffusion schedule.

    :param encoder: state -> [B, K, width]
    :param layout: of the action      :param width: of the embeddings
    :param config: P, the sampler, and whether the objective is a flow
    """

    def __init__(self, encoder: nn.Module, layout: Layout, width: int, config: AENPNNConfig):
        super().__init__()
        self.config = config
        flow = config.objective == "flow"
        self.schedule = StraightPath(config.steps) if flow else DiffusionSchedule(config.steps)
        self.noise_rows = 1 if flow or config.sampler == "ddim" else config.steps
        self.encoder, self.condition = encoder, nn.Linear(width, 2 * width)
        self.denoiser = ActionDenoiser(layout.width, 2 * width, config.steps, config.exchange)

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
        :param noises: [P or 1, B, count, K, layout.width]; 1 where only the start is random
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
        noises = self.draw(observation, count, generator) if noises is None else noises
        with torch.no_grad():
            noisy = self._noisy(embedding, noises, step)
        return observation.layout.to_flat(self.denoiser(embedding, noisy, step).float())

    def _noisy(self, embedding: Tensor, noises: Tensor, step: int) -> Tensor:
        """The chain's x_p from noises [P or 1, B, M, K, numbers]: [B, M, K, numbers]."""
        chain = partial(self.schedule.reverse, start_or_shape=None, sampler=self.config.sampler, stop=step)
        if torch.compiler.is_compiling():  # an exported graph pays for every operator, and not for thin products
            return chain(lambda noisy, p: self.denoiser(embedding, noisy, p).float().tanh(), noises=noises)
        estimate = self.denoiser.conditioned(embedding, noises.shape[2])
        return chain(estimate, noises=noises.movedim(-1, 1).contiguous()).movedim(0, -1)

    def draw(self, observation: Observation, count: int, generator: torch.Generator | None) -> Tensor:
        """Noise of ``count`` chains, that of the first 0 with ``calm_first``: [P or 1, B, count, K, width]."""
        layout = observation.layout
        shape = (self.noise_rows, observation.batch, count, layout.entities, layout.width)
        noises = torch.randn(shape, generator=generator, device=observation.nodes.device)
        if self.config.calm_first:
            noises[:, :, 0].zero_()
        return noises

"""RENPNN where rewards are told as sums: what every link and slot had of a report, generated so that it adds up."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from d2rl.algorithm.explorers.regression import FromMoments
from d2rl.algorithm.networks import make_transition, make_view
from d2rl.algorithm.reports import REGRESSION
from d2rl.config.defaults import RunConfig
from d2rl.problems.base import Observation, Problem

FAR = 4.0  # baselines, in units of their scale, are told as far as this


class SplitRENPNN(FromMoments):
    r"""Reward explorer that learns from sums of rewards alone.

    A report T is the sum of the rewards of all links in the n slots of a window, weighted by their priorities w. Mean
    and variance C of every one are fitted to the reports: sums of means by regression, sums of variances by likelihood.
    Then rewards of the window are drawn and conditioned on their sum, by which those that are less sure take more of
    what is left over,

    .. math:: r_i \leftarrow r_i + \frac{w_i C_i}{\sum_j w_j^2 C_j} \Big(T - \sum_j w_j r_j\Big)

    and the chain learns to denoise towards these draws, in units of their own deviation from their mean (after CARD,
    Han et al., NeurIPS 2022). Draws of the chain itself would feed on their own errors: a report moves each of its many
    rewards by little, and their variances grow without end. The reverse chain adds what its estimates leave open
    (:meth:`DiffusionSchedule.noise_factors`), so that few steps keep the spread.

    Links are also told their baselines: what a report is beyond them bends where they do, and windows are few.

    :param scale: of the baselines
    :param regresses: draws are Gaussian, with the same means and variances, and no chain learns (a control)
    """

    def __init__(self, *args: Any, scale: float = 10.0, regresses: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.scale, self.regresses = scale, regresses
        unexplained = 1 - self.schedule.alphas_bar  # of a Gaussian of unit variance, at each step
        self.register_buffer("factors", self.schedule.noise_factors(unexplained[:, None, None]), persistent=False)

    @classmethod
    def build(cls, config: RunConfig, problem: Problem) -> SplitRENPNN:
        reward, width = config.reward, config.network.width
        view = make_view(config.network, problem)[1]
        transition = make_transition(config.network, problem, view + 1, alone=True)
        risk = reward.risk, reward.quantile, reward.rate
        scale = config.ddpg.reward_scale
        return cls(transition, width, reward.steps, True, *risk, scale=scale, regresses=reward.explorer == REGRESSION)

    def loss_of_sums(
        self, observation: Observation, view: Tensor, total: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of rewards against draws that add up to the reports, and of their sums against the reports.

        :param view: of the actions, [W n, M, K, view], the slots of a window side by side
        :param total: T, [W, M], in the unit of the rewards
        :returns: loss; metrics, detached
        """
        embedding = self._embed(observation, view)
        windows, shape = len(total), embedding.shape[:3]
        elements = math.prod(shape) / total.numel()
        weights = observation.weights.unsqueeze(1).expand(shape)
        target = (total - self.centre * added(weights, windows)) / self.spread
        mean, variance = self.moments(embedding)
        deviation = weights * variance.sqrt()
        sums = added(weights * mean, windows)
        left = (target - sums).detach()
        loss = F.smooth_l1_loss(sums / elements**0.5, target / elements**0.5)
        metrics = {"loss": loss.detach(), "left_over": left.square().mean().sqrt() * self.spread / elements}
        total_variance = added(deviation.square(), windows)
        likelihood = (total_variance.log() + left.square() / total_variance).mean() / 2
        if self.regresses:
            return loss + likelihood, metrics
        with torch.no_grad():
            noise = torch.randn((2, *shape), generator=generator, device=mean.device)
            drawn = adding_up(noise[0], deviation, left)
            step = torch.randint(1, self.schedule.steps + 1, shape[:2], generator=generator, device=mean.device)
        estimate = self.denoiser(embedding.detach(), self.schedule.corrupt(drawn, step, noise[1]), step).float()
        return loss + likelihood + F.mse_loss(estimate, drawn), metrics

    def _noise(self, embedding: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        """Draws of the chain, or Gaussian ones, [B, M, samples, K]."""
        if self.regresses:
            return super()._noise(embedding, samples, generator)
        return self._chain(embedding.detach(), samples, generator, self.factors)

    @torch.no_grad()
    def calibrate(self, reward: Tensor) -> None:
        """Fix the unit in which rewards are diffused.

        :param reward: mean reward of the links and slots of a report, of several reports
        """
        self.centre.copy_(reward.mean())
        self.spread.copy_(reward.square().mean().sqrt().clamp_min(1e-3))

    def _embed(self, observation: Observation, view: Tensor) -> Tensor:
        baseline = (observation.baseline / self.scale).clamp(-FAR, FAR).unsqueeze(1).unsqueeze(-1)
        return super()._embed(observation, torch.cat([view, baseline.expand(*view.shape[:-1], 1)], dim=-1))


def added(values: Tensor, windows: int) -> Tensor:
    """Sums [W, M] of the links and slots of each window, from [W n, M, K]."""
    return values.sum(-1).unflatten(0, (windows, len(values) // windows)).sum(1)


def adding_up(noise: Tensor, deviation: Tensor, total: Tensor) -> Tensor:
    """White noise [W n, M, K] under the condition that noise times deviation adds up to totals [W, M] of windows."""
    missing = (total - added(deviation * noise, len(total))) / added(deviation.square(), len(total))
    slots = len(noise) // len(total)
    return noise + deviation * missing.repeat_interleave(slots, 0).unsqueeze(-1)

"""Objectives of published diffusion and flow policies as losses over AENPNN's own network and chain.

``benchmarks/action_objectives.py`` compares them. What their algorithms have beside the loss of the policy (critics,
ways to explore, temperatures that adapt) is left out, for Q is known here and temperatures are tuned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from d2rl.algorithm.ddpg import DeterministicActor, saturation
from d2rl.algorithm.explorers import AENPNN
from d2rl.algorithm.straight_path import paired
from d2rl.problems.base import Observation, Transition

UNIFORM = 10  # actions that QVPO draws evenly for each state
SLOPE, LEVEL = 0.4, -1.8  # c and d of DACER2's w(p) = exp(c p + d)


@dataclass(frozen=True)
class Update:
    """What a loss sees.

    :param seen: B states
    :param value: Q of actions [B, M, size], differentiable: [B, M]
    :param unit: standard deviation of Q among even actions of one state, in which temperatures count
    :param noise: standard deviation of the exploration now
    """

    seen: Observation
    value: Callable[[Observation, Tensor], Tensor]
    unit: float
    noise: float
    generator: torch.Generator

    def even(self, count: int) -> Tensor:
        """Actions from all over their range, [B, count, size]."""
        return 2 * torch.rand((self.seen.batch, count, self.seen.layout.size), generator=self.generator) - 1

    @torch.no_grad()
    def own(self, policy: AENPNN, count: int, noise: float = 0.0) -> Tensor:
        """Draws of the policy with Gaussian noise, [B, count, size]."""
        action = policy.sample(self.seen, count, self.generator).tanh()
        return (action + noise * torch.randn(action.shape, generator=self.generator)).clamp(-1, 1)

    @torch.no_grad()
    def boltzmann(self, action: Tensor, temperature: float) -> Tensor:
        """Weights of the last but one dimension of actions [B, M, size], proportional to e^{Q / (temperature unit)}."""
        return torch.softmax(self.value(self.seen, action) / (temperature * self.unit), -1)

    @torch.no_grad()
    def spread_of_even(self) -> float:
        """Standard deviation of Q among even actions of one state."""
        return float(self.value(self.seen, self.even(16)).var(-1).mean().sqrt())


def denoising(policy: AENPNN, update: Update, action: Tensor, weights: Tensor, noise: Tensor | None = None) -> Tensor:
    """Weighted squared error of the clean action that a random step estimates, and the penalty.

    :param action: [B, M, size]      :param weights: [B, M]
    :param noise: [B, M, K, numbers] of each action; None: drawn
    """
    clean = update.seen.layout.to_entities(action)
    step = torch.randint(1, policy.schedule.steps + 1, clean.shape[:2], generator=update.generator)
    noise = torch.randn(clean.shape, generator=update.generator) if noise is None else noise
    output = policy.denoiser(policy.encode(update.seen), policy.schedule.corrupt(clean, step, noise), step)
    error = (output.tanh() - clean).square().mean((-2, -1))
    return (weights * error).sum(-1).mean() + policy.penalty * saturation(output)


def packaged(policy: AENPNN, update: Update) -> Tensor:
    """The package's own: the objective of the policy's configuration, with M_a draws measured for each state."""
    action = update.own(policy, policy.config.candidates, update.noise)
    batch = Transition(update.seen, action, action, action)
    return policy.loss(batch, update.value, lambda: update.value(update.seen, action), update.generator)[0]


def deterministic(policy: DeterministicActor, update: Update) -> Tensor:
    """The deterministic actor's own, in which no action counts but the actor's."""
    action = update.even(1)
    batch = Transition(update.seen, action, action, action)
    return policy.loss(batch, update.value, lambda: action, update.generator)[0]


def qvpo(policy: AENPNN, update: Update, draws: int, entropy: float) -> Tensor:
    r"""QVPO (Ding et al., NeurIPS 2024, arXiv 2405.16173): the best of N draws, weighted by its advantage.

    :math:`A = \max_m Q_m - \bar Q`; even actions, which stand for the entropy, weigh A times ``entropy``. Weights are
    divided by the batch's mean of A, so that the penalty counts as in other losses.
    """
    action = update.own(policy, draws)
    with torch.no_grad():
        value = update.value(update.seen, action)
    advantage = value.amax(-1, keepdim=True) - value.mean(-1, keepdim=True)
    best = action.take_along_dim(value.argmax(-1)[:, None, None], 1)
    weights = advantage / advantage.mean().clamp_min(1e-9)
    every = torch.cat([weights, entropy * weights.expand(-1, UNIFORM)], -1)
    return denoising(policy, update, torch.cat([best, update.even(UNIFORM)], 1), every)


def dacer2(policy: AENPNN, update: Update, draws: int, field: float) -> Tensor:
    r"""DACER2 (Wang et al., 2025, arXiv 2505.23426): ascend Q through the whole chain, every step led by Q's gradient.

    The noise that a step p sees in :math:`x_p` of a draw shall be :math:`-w(p) \nabla_a Q / \lVert \nabla_a Q \rVert`.

    :param field: weight of this beside Q
    """
    layout, schedule, embedding = update.seen.layout, policy.schedule, policy.encode(update.seen)
    noisy = schedule.reverse(
        lambda x, p: policy.denoiser(embedding, x, p).tanh(),
        None,
        noises=policy.draw(update.seen, draws, update.generator),
        stop=1,
    )
    output = policy.denoiser(embedding, noisy, 1)
    action = layout.to_flat(output).tanh()
    ascent = policy.penalty * saturation(output) - update.value(update.seen, action).mean()
    action = action.detach().requires_grad_()
    (slope,) = torch.autograd.grad(update.value(update.seen, action).sum(), action)
    clean, slope = (layout.to_entities(one.detach()) for one in (action, nn.functional.normalize(slope, dim=-1)))
    step = torch.randint(1, schedule.steps + 1, clean.shape[:2], generator=update.generator)
    noisy = schedule.corrupt(clean, step, torch.randn(clean.shape, generator=update.generator))
    told = -torch.exp(SLOPE * step + LEVEL)[..., None, None] * slope
    error = implied_noise(policy, policy.denoiser(embedding, noisy, step).tanh(), noisy, step) - told
    return ascent + field * error.square().mean()


def implied_noise(policy: AENPNN, clean: Tensor, noisy: Tensor, step: Tensor) -> Tensor:
    """The noise that ``noisy``, of step [B, M], holds if ``clean`` is what it was made of: [B, M, K, numbers]."""
    signal = policy.schedule.alphas_bar[step][..., None, None]
    return (noisy - signal.sqrt() * clean) / (1 - signal).sqrt()


def sdac(policy: AENPNN, update: Update, draws: int, temperature: float, broad: bool) -> Tensor:
    """SDAC (Ma et al., ICML 2025, arXiv 2502.00361): reweighted score matching.

    A noisy action is given, and ``draws`` clean ones that it may have been made of, weighted by e^Q, are its target.

    :param broad: the noisy action is made of an even one; else of a draw of the policy, as in the paper
    """
    layout, schedule = update.seen.layout, policy.schedule
    base = layout.to_entities(update.even(1) if broad else update.own(policy, 1))
    step = torch.randint(1, schedule.steps + 1, base.shape[:2], generator=update.generator)
    noisy = schedule.corrupt(base, step, torch.randn(base.shape, generator=update.generator))
    clean = sources(policy, noisy, step, draws, update.generator)
    weights = update.boltzmann(layout.to_flat(clean), temperature)
    output = policy.denoiser(policy.encode(update.seen), noisy, step)
    error = (output.tanh() - clean).square().mean((-2, -1))
    return (weights * error).sum(-1).mean() + policy.penalty * saturation(output)


def sources(policy: AENPNN, noisy: Tensor, step: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Clean actions [B, count, K, numbers] that a noisy one [B, 1, K, numbers] of step [B, 1] may have come from.

    With even actions before it these are normal around ``noisy / signal``, cut off where the range of actions ends.
    """
    signal = policy.schedule.alphas_bar[step].double()[..., None, None]
    middle, spread = noisy / signal.sqrt(), (1 / signal - 1).sqrt()
    low, high = (torch.special.ndtr((end - middle) / spread) for end in (-1, 1))
    share = torch.rand((len(noisy), count, *noisy.shape[2:]), generator=generator, dtype=low.dtype)
    return (middle + spread * torch.special.ndtri(low + share * (high - low))).clamp(-1, 1).float()


def dpmd(policy: AENPNN, update: Update, draws: int, temperature: float, explore: bool) -> Tensor:
    """DPMD (Ma et al., ICML 2025, arXiv 2502.00361), mirror descent: the policy's own draws, weighted by e^Q.

    :param explore: draws have the exploration's noise
    """
    action = update.own(policy, draws, update.noise if explore else 0.0)
    return denoising(policy, update, action, update.boltzmann(action, temperature))


def flow(policy: AENPNN, update: Update, draws: int, temperature: float, broad: bool, near: bool) -> Tensor:
    """Flow matching (Lipman et al., ICLR 2023) on candidates weighted by e^Q, as FPMD (Chen et al., 2025) does.

    The policy's objective is ``flow``, so that its path is straight; that objective itself is ``broad`` and ``near``.

    :param broad: candidates are even; else the policy's own with the exploration's noise
    :param near: candidates are drawn by their weights, and each has a noise near it; else noises belong to any of them
    """
    action = update.even(draws) if broad else update.own(policy, draws, update.noise)
    weights = update.boltzmann(action, temperature)
    if not near:
        return denoising(policy, update, action, weights)
    action, noise = paired(update.seen.layout, action, weights, update.generator)
    return denoising(policy, update, action, torch.full_like(weights, 1 / draws), noise)

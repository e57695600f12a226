"""Virtual queues, and policies that learn to draw what they decide without their memory (see time_sharing.py)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2rl.algorithm.explorers import AENPNN
from d2rl.algorithm.networks import ActionOutput
from d2rl.algorithm.policy import Policy
from d2rl.config.defaults import AENPNNConfig
from d2rl.problems.base import Layout, Observation, stream

CAP = 10.0  # largest priority
STATES = 512  # cells to learn from
SETTLED, SHOWN = 8, 24  # slots of their virtual queues before they are shown, and while they are
BATCH, EACH = 32, 8  # states in an update, and what is shown of each
WINDOWS, DRAWS, PRICE = 8, 8, 20.0  # of for_windows: states in an update, draws of each, price of a missing bit/s/Hz
FIRST_DEVIATION = 0.3  # of the Gaussian noise, before tanh
RATE, RATE_END = 2e-3, 0.02  # learning rate, and a part of it at the end


def virtual_queues(
    serve: Callable[[Tensor, int], Tensor], like: Tensor, slots: int, minimum: float, patience: float
) -> tuple[Tensor, Tensor]:
    """Priorities that grow with what links lack of their minimum (Neely, *Stochastic Network Optimization*, 2010).

    :param serve: priorities [B, K] and the number of a slot -> rates [B, K]
    :param like: [B, K]
    :param patience: V; priorities are 1 + queue / V, for the sum rate and the minimum
    :returns: rates and priorities, [slots, B, K] each
    """
    queues, served, asked = torch.zeros_like(like), [], []
    for slot in range(slots):
        asked.append((1 + queues / patience).clamp_max(CAP))
        served.append(serve(asked[-1], slot))
        queues = (queues + minimum - served[-1]).clamp_min(0)
    return torch.stack(served), torch.stack(asked)


def decided(
    policy: Policy, seen: Observation, weights: Tensor, generator: torch.Generator, noise: bool = False
) -> Tensor:
    """Rates [B, K] of one decision of a policy under priorities [B, K].

    :param noise: an action drawn with the policy's own noise, where its first one is without
    """
    asked, action = proposed(policy, seen, weights, generator, noise)
    return carried_out(policy, asked, action)


def proposed(
    policy: Policy, seen: Observation, weights: Tensor, generator: torch.Generator, noise: bool = False
) -> tuple[Observation, Tensor]:
    """The states under priorities [B, K], and an action of each, [B, 1, size]."""
    asked = policy.problem.with_priorities(seen, weights.unsqueeze(1))
    return asked, policy.propose(asked, 2 if noise else 1, generator)[:, -1:]


def carried_out(policy: Policy, seen: Observation, action: Tensor) -> Tensor:
    """Rates [B, K] of actions [B, 1, size]."""
    return policy.problem.utility(seen, policy.problem.decode(seen, action))[:, 0]


def equally(policy: Policy, seen: Observation) -> Observation:
    """The states with equal priorities."""
    return policy.problem.with_priorities(seen, torch.ones_like(seen.weights).unsqueeze(1))


class Gaussian(nn.Module):
    """The control of AENPNN: numbers are drawn independently of each other, from means and variances of a network.

    :param encoder: state -> [B, K, width]
    :param layout: of the numbers
    """

    def __init__(self, encoder: nn.Module, layout: Layout, width: int):
        super().__init__()
        self.layout = Layout(layout.counts, tuple(2 * one for one in layout.numbers))
        self.encoder, self.output = encoder, ActionOutput(self.layout, width)

    def moments(self, seen: Observation) -> tuple[Tensor, Tensor]:
        """Mean and mean square of every number, [B, size] each."""
        numbers = self.output(self.encoder(seen), self.layout).float().tanh()
        return tuple(seen.layout.to_flat(part) for part in numbers.chunk(2, dim=-1))

    def loss(self, seen: Observation, shown: Tensor) -> Tensor:
        """Squared errors of both moments of shown numbers [B, M, size]."""
        mean, square = self.moments(seen)
        return F.mse_loss(mean, shown.mean(1)) + F.mse_loss(square, shown.square().mean(1))

    def sample(self, seen: Observation, count: int, generator: torch.Generator) -> Tensor:
        """Numbers [B, count, size] in [-1, 1]."""
        mean, square = (part.unsqueeze(1) for part in self.moments(seen))
        noise = torch.randn(len(mean), count, mean.shape[-1], generator=generator)
        return (mean + (square - mean.square()).clamp_min(0).sqrt() * noise).clamp(-1, 1)


class NoisyChain(nn.Module):
    """The other control: one action of a chain without noise, and independent Gaussian noise of a learned deviation.

    :param chain: of the action
    :param layout: of the action
    :param width: of the embeddings
    """

    def __init__(self, chain: AENPNN, layout: Layout, width: int):
        super().__init__()
        self.chain, self.deviation = chain, ActionOutput(layout, width)

    def sample(self, seen: Observation, count: int, generator: torch.Generator) -> Tensor:
        """Actions before tanh, [B, count, size]."""
        noises = torch.zeros(self.chain.draw(seen, 1, generator).shape)
        deviation = FIRST_DEVIATION * self.deviation(self.chain.encoder(seen), seen.layout).float().exp()
        deviation = seen.layout.to_flat(deviation).unsqueeze(1)
        drawn = torch.randn(seen.batch, count, seen.layout.size, generator=generator)
        return self.chain.sample(seen, 1, generator, noises) + deviation * drawn


Sharing = Callable[[Observation, torch.Generator], Tensor]  # states -> rates [B, K] of one slot, drawn without memory


def imitators(policy: Policy, drawn: str, shown: Shown, updates: int, seed: int) -> dict[str, Sharing]:
    """Policies that have learned what virtual queues decide, by name; they begin with the encoder of the policy.

    :param drawn: ``actions``, or the ``priorities`` for which the policy then decides
    :param shown: of :func:`shown_by_queues`
    :returns: AENPNN, the Gaussian, and that without noise, which is what regression makes of the same
    """
    layout, width = laid_out(shown.seen, drawn).layout, policy.config.network.width
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    chain = AENPNN(copy.deepcopy(policy.policy.encoder), layout, width, AENPNNConfig(exchange=True))
    gaussian = Gaussian(copy.deepcopy(policy.policy.encoder), layout, width)
    numbers = shown.actions if drawn == "actions" else from_priorities(shown.priorities)

    def batch() -> tuple[Observation, Tensor]:
        chosen = torch.randint(STATES, (BATCH, 1), generator=generator)
        slots = torch.randint(SHOWN, (BATCH, EACH), generator=generator)
        return laid_out(shown.seen[chosen.squeeze(1)], drawn), numbers[chosen, slots]

    alike = torch.full((BATCH, EACH), 1 / EACH)
    fit(chain, lambda: chain.imitate(*batch(), alike, generator)[0], updates)
    fit(gaussian, lambda: gaussian.loss(*batch()), updates)

    def sharing(sample: Callable[[Observation, torch.Generator], Tensor]) -> Sharing:
        def rates(seen: Observation, g: torch.Generator) -> Tensor:
            found = sample(laid_out(seen, drawn), g)
            if drawn == "actions":
                return carried_out(policy, seen, found)
            return decided(policy, seen, to_priorities(found.squeeze(1)), g)

        return rates

    return {
        "AENPNN": sharing(lambda seen, g: chain.sample(seen, 1, g).tanh()),
        "Gaussian": sharing(lambda seen, g: gaussian.sample(seen, 1, g)),
        "regression": sharing(lambda seen, _: gaussian.moments(seen)[0].unsqueeze(1)),
    }


def for_windows(policy: Policy, kind: str, minimum: float, updates: int, seed: int) -> Sharing:
    """What ``kind`` draws after it has ascended what windows of its own draws bring, by the gradient of the rates.

    ``AENPNN`` begins as the policy's own chain, ``Gaussian noise`` as that without noise of its own, and
    ``deterministic`` has none. A window of D draws is worth its mean sum rate less PRICE times what links lack of the
    minimum.
    """
    torch.manual_seed(seed)
    problem, width = policy.problem, policy.config.network.width
    generator, config = torch.Generator().manual_seed(seed), replace(policy.config.action, calm_first=False)
    network: Any = AENPNN(copy.deepcopy(policy.policy.encoder), problem.layout, width, config)
    network.load_state_dict(policy.policy.state_dict())
    if kind != "AENPNN":
        network = NoisyChain(network, problem.layout, width)
    count = 1 if kind == "deterministic" else DRAWS

    def drawn(seen: Observation, draws: int, g: torch.Generator) -> Tensor:
        if kind == "deterministic":
            return network.chain.sample(seen, 1, g, torch.zeros(network.chain.draw(seen, 1, g).shape)).tanh()
        return network.sample(seen, draws, g).tanh()

    def loss() -> Tensor:
        seen = equally(policy, problem.observe(problem.reset(WINDOWS, generator)))
        mean = problem.utility(seen, problem.decode(seen, drawn(seen, count, generator))).mean(1)
        return (PRICE * (minimum - mean).clamp_min(0) - mean).sum(-1).mean() / 10

    fit(network, loss, updates)
    return lambda seen, g: carried_out(policy, seen, drawn(seen, 1, g))


def fit(network: nn.Module, loss: Callable[[], Tensor], updates: int) -> None:
    """Adam, with a rate that falls by a cosine."""
    network.requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates, RATE_END * RATE)
    for _ in range(updates):
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@dataclass(frozen=True)
class Shown:
    """What virtual queues decided, slot by slot.

    :param seen: STATES cells with equal priorities
    :param actions: [STATES, SHOWN, size], of the policy
    :param priorities: [STATES, SHOWN, K], under which they were proposed
    """

    seen: Observation
    actions: Tensor
    priorities: Tensor


@torch.no_grad()
def shown_by_queues(policy: Policy, drawn: str, aim: float, patience: float) -> Shown:
    """Decisions to imitate.

    :param drawn: what will be drawn; ``actions`` are carried out with equal priorities then, and here
    :param aim: minimum of the virtual queues, bit/s/Hz; above the one that is wanted, since draws are left to chance
    :param patience: V
    """
    problem, generator = policy.problem, torch.Generator().manual_seed(stream("time sharing"))
    seen = equally(policy, problem.observe(problem.reset(STATES, generator)))
    actions = []

    def serve(weights: Tensor, _: int) -> Tensor:
        asked, action = proposed(policy, seen, weights, generator)
        actions.append(action)
        return carried_out(policy, seen if drawn == "actions" else asked, action)

    _, priorities = virtual_queues(serve, seen.weights, SETTLED + SHOWN, aim, patience)
    return Shown(seen, torch.cat(actions[SETTLED:], dim=1), priorities[SETTLED:].transpose(0, 1))


def laid_out(seen: Observation, drawn: str) -> Observation:
    """The states with the layout of what is drawn: ``actions``, or one number of each link."""
    counts = seen.layout.counts
    return seen if drawn == "actions" else replace(seen, layout=Layout(counts, (1,) * len(counts)))


def to_priorities(numbers: Tensor) -> Tensor:
    """Priorities from 1 to CAP, of numbers in [-1, 1]."""
    return torch.exp((numbers + 1) / 2 * math.log(CAP))


def from_priorities(weights: Tensor) -> Tensor:
    """The inverse of :func:`to_priorities`."""
    return 2 * weights.log() / math.log(CAP) - 1

"""Flow matching: the straight path between an action and noise, and which noise belongs to which action."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d2rl.algorithm.diffusion import Denoiser
from d2rl.problems.base import Layout


class StraightPath(nn.Module):
    r"""In the place of :class:`DiffusionSchedule`: :math:`x_p = (1 - p / P)\, x_0 + (p / P)\, \epsilon`.

    Flow matching (Lipman et al., ICLR 2023) follows it back along the velocity :math:`x_0 - \epsilon`. An estimate of
    x_0 is one of the velocity, so the denoiser is that of other chains. Nothing is random but where it begins.

    :param steps: P, Euler steps
    """

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps

    def corrupt(self, x0: Tensor, step: int | Tensor, noise: Tensor) -> Tensor:
        """x_p on the path from ``x0`` to ``noise``, [..., d].

        :param step: p, int or an integer tensor whose shape leads that of ``x0``
        """
        share = step / self.steps
        if isinstance(share, Tensor):
            share = share.to(x0.dtype).reshape(share.shape + (1,) * (x0.dim() - share.dim()))
        return x0 + share * (noise - x0)

    def reverse(
        self, denoiser: Denoiser, start_or_shape: Tensor | None, *, noises: Tensor, sampler: str = "", stop: int = 0
    ) -> Tensor:
        """x_stop from ``start_or_shape`` or row 0 of ``noises``.

        The arguments are those of :meth:`DiffusionSchedule.reverse`; the sampler is of no matter.
        """
        x = noises[0] if start_or_shape is None else start_or_shape
        for step in range(self.steps, stop, -1):
            x = x + (denoiser(x, step) - x) / step
        return x


def paired(layout: Layout, action: Tensor, weights: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """M of M candidates drawn by their weights, each with a noise that is near it.

    So few steps lead from a noise to its action (minibatch optimal transport, Tong et al., TMLR 2024, here greedy);
    noises that belong to any action lead to the middle of all.

    :param action: [B, M, size]
    :param weights: [B, M], adding up to one over M
    :returns: actions [B, M, size]; their noises, [B, M, K, layout.width]
    """
    action = action.take_along_dim(redraw(weights, generator).unsqueeze(-1), 1)
    shape = (*weights.shape, layout.entities, layout.width)
    noise = torch.randn(shape, generator=generator, device=action.device)
    partner = nearest_pairs(layout.to_flat(noise), action)
    return action.take_along_dim(partner.unsqueeze(-1), 1), noise


def redraw(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Which of M candidates to take by their weights, M in all and as evenly as can be: their indices, [B, M].

    :param weights: [B, M], adding up to one over M
    """
    count = weights.shape[-1]
    start = torch.rand((len(weights), 1), generator=generator, device=weights.device)
    places = (torch.arange(count, device=weights.device) + start) / count
    return torch.searchsorted(weights.cumsum(-1), places).clamp(max=count - 1)


def nearest_pairs(first: Tensor, second: Tensor) -> Tensor:
    """A one-to-one assignment, the nearest pair first: the index in ``second`` for each of ``first``, [B, M].

    :param first: [B, M, n]      :param second: [B, M, n]
    """
    distance, count = torch.cdist(first, second), first.shape[1]
    partner = torch.zeros(first.shape[:2], dtype=torch.int64, device=first.device)
    for _ in range(count):
        place = distance.flatten(1).argmin(-1, keepdim=True)
        row, column = place // count, place % count
        partner.scatter_(1, row, column)
        distance.scatter_(1, row.unsqueeze(-1).expand(-1, 1, count), torch.inf)
        distance.scatter_(2, column.unsqueeze(-1).expand(-1, count, 1), torch.inf)
    return partner

"""From numbers in [-1, 1] to phases of the elements and beams for the users."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from d2rl.problems.ris.channels import Decision, unit_modulus
from d2rl.problems.ris.observation import KnownSurface
from d2rl.wireless.heads import StructuredHead
from d2rl.wireless.link_rates import squared_magnitude


class SurfaceHead:
    r"""Phases along a direction that the users agree on, beams of the shape that every optimum has.

    .. math:: v_n = \frac{v^0_n + p_n}{|v^0_n + p_n|} \, e^{j \pi a_n}, \quad
        p \propto \sum_k \alpha_k s_k - \beta_k i_k \text{ with } |p_n|^2 = 1 \text{ on average}

    v0 are the aligned phases of the observation, s_k and i_k the pulls of user k there: towards its signal and towards
    the interference that it hears. With all numbers 0, p is the gradient of the weighted sum rate. A user has four
    numbers: those of :class:`StructuredHead` (lambda, power share), alpha and beta; an element has its own turn a.
    """

    numbers = (4, 1)
    pull_range = 1.5  # alpha and beta run from 10^-1.5 to 10^1.5

    def __init__(self) -> None:
        self.beams = StructuredHead()

    def decode(self, known: KnownSurface, weights: Tensor, users: Tensor, elements: Tensor) -> Decision:
        """Reflection [B, N] of modulus 1; precoder [B, N_t, K] of total power 1.

        :param weights: [B, K], priority of every user
        :param users: [B, K, 4]      :param elements: [B, N, 1]; what is outside [-1, 1] counts as -1 or 1
        """
        users, turn = users.clamp(-1, 1), math.pi * elements.clamp(-1, 1).squeeze(-1)
        alpha, beta = (weights.unsqueeze(-1) * 10 ** (self.pull_range * users[..., 2:])).split(1, dim=-1)
        direction = (alpha * known.signal - beta * known.interference).sum(-2)
        size = squared_magnitude(direction).mean(-1, keepdim=True).clamp_min(1e-30).sqrt()
        towards = unit_modulus(known.reflection + direction / size, known.reflection)
        reflection = towards * torch.polar(torch.ones_like(turn), turn)
        precoder, _ = self.beams.decode(known.channels.effective(reflection), users[..., :2].flatten(-2))
        return reflection, precoder

"""From numbers in [-1, 1] to phases of the elements and beams for the users."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from d2rl.common.within import within
from d2rl.problems.ris.channels import Decision, SurfaceChannels
from d2rl.wireless.heads import StructuredHead


class SurfaceHead:
    r"""Phases turned from given ones, and beams of the shape that every optimum has.

    .. math:: v_n = v^0_n \, e^{j \pi a_n}

    An element has its turn a, a user the two numbers of :class:`StructuredHead` (lambda, power share). With all of them
    0 the surface stays as it is.
    """

    numbers = (2, 1)

    def __init__(self) -> None:
        self.beams = StructuredHead()

    def decode(self, channels: SurfaceChannels, reflection: Tensor, users: Tensor, elements: Tensor) -> Decision:
        """Reflection [B, N] of modulus 1; precoder [B, N_t, K] of total power 1.

        :param reflection: [B, N], complex; v0, of modulus 1
        :param users: [B, K, 2]
        :param elements: [B, N, 1]; what is outside [-1, 1] counts as -1 or 1
        """
        angle = math.pi * within(elements, -1, 1).squeeze(-1)
        turned = reflection * torch.polar(torch.ones_like(angle), angle)
        precoder, _ = self.beams.decode(channels.effective(turned), users.flatten(-2))
        return turned, precoder

"""What a base station could do without learning, and what nothing can pass."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from d2rl.problems.base import stream
from d2rl.problems.ris.channels import Decision, SurfaceChannels, downlink_only, rate_pulls, unit_modulus
from d2rl.problems.ris.simulator import SurfaceState
from d2rl.wireless.bounds import interference_free_rates
from d2rl.wireless.link_rates import downlink_powers, squared_magnitude
from d2rl.wireless.precoders import full_uplink_power, rzf
from d2rl.wireless.wmmse import wmmse_iteration

ALIGNING_STEPS = 10
ALTERNATIONS = 200

Policy = Callable[[SurfaceState], Decision]


def reference_policies(gradient_steps: int) -> dict[str, Policy]:
    """Alternating optimisation, a few steps along the gradient, random phases, by name."""

    def alternating(state: SurfaceState) -> Decision:
        users = state.channels.direct.shape[1]
        start = with_rzf(state.channels, align(state.channels))
        return alternate(state.channels, start, state.weights[:, :users], ALTERNATIONS)

    return {
        "alternating": alternating,
        "gradient": lambda state: gradient(state.channels, gradient_steps),
        "random": lambda state: random_phases(state.channels),
    }


def with_rzf(channels: SurfaceChannels, reflection: Tensor) -> Decision:
    """Phases [B, N] with the RZF beams that suit them."""
    return reflection, rzf(channels.effective(reflection))


def random_phases(channels: SurfaceChannels) -> Decision:
    """Phases drawn uniformly, the same ones in every call; RZF beams."""
    like = channels.reflected[:, 0].real
    generator = torch.Generator(like.device).manual_seed(stream("random"))
    angles = 2 * math.pi * torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return with_rzf(channels, torch.polar(torch.ones_like(angles), angles))


def align(channels: SurfaceChannels) -> Tensor:
    r"""Phases that raise the sum of the users' channel gains, :math:`\sum_k ||g_k||^2`: [B, N].

    A convex function is above its tangents, so that to maximise a tangent, :math:`v_n = e^{j \arg \nabla_n}`, never
    lowers it.
    """
    reflection = torch.ones_like(channels.reflected[:, 0])
    for _ in range(ALIGNING_STEPS):
        heard = channels.effective(reflection).downlink
        reflection = unit_modulus((channels.reflected * (heard @ channels.feed.mT).conj()).sum(-2), reflection)
    return reflection


def gradient(channels: SurfaceChannels, steps: int) -> Decision:
    """Phases of :func:`align` after steps along the gradient of the sum rate, RZF beams after each.

    In every step elements move by 1 on average, the radius of the circle that they then fall back on.
    """
    decision = with_rzf(channels, align(channels))
    for _ in range(steps):
        to_signal, to_interference = rate_pulls(channels, decision)
        direction = (to_signal - to_interference).sum(-2)
        size = squared_magnitude(direction).mean(-1, keepdim=True).clamp_min(1e-30).sqrt()
        decision = with_rzf(channels, unit_modulus(decision[0] + direction / size, decision[0]))
    return decision


def alternate(channels: SurfaceChannels, decision: Decision, weights: Tensor, iterations: int) -> Decision:
    """Alternating optimisation of the weighted sum rate: a WMMSE iteration for the beams, then one for each element.

    Every step raises the rate or leaves it (Guo et al., IEEE Trans. Wireless Commun. 2020, with exact coordinate
    steps for the phases); in double precision.

    :param decision: to start from
    :param weights: [B, K], priority of every user
    """
    exact = channels.map(lambda tensor: tensor.to(torch.complex128))
    reflection, precoder = (part.to(torch.complex128) for part in decision)
    weights, silent = weights.double(), full_uplink_power(exact.effective(reflection))
    for _ in range(iterations):
        precoder, _ = wmmse_iteration(exact.effective(reflection), precoder, silent, weights)
        reflection = turn_elements(exact, reflection, precoder, weights)
    return reflection.to(decision[0].dtype), precoder.to(decision[1].dtype)


def turn_elements(channels: SurfaceChannels, reflection: Tensor, precoder: Tensor, weights: Tensor) -> Tensor:
    r"""One element after the other turned to the minimum of the weighted mean squared error, given the beams: [B, N].

    With WMMSE's receivers u_k and weights a_k that error is :math:`v^H A v - 2 \mathrm{Re}(v^H b)` up to a constant,
    so the best v_n of unit modulus is :math:`e^{j \arg(b_n - \sum_{m \ne n} A_{nm} v_m)}`.
    """
    cell = channels.effective(reflection)
    own = (cell.downlink.conj() @ precoder).diagonal(dim1=-2, dim2=-1)
    signal, disturbance = downlink_powers(cell, precoder, full_uplink_power(cell))
    u, a = own / (signal + disturbance), weights * (signal + disturbance) / disturbance
    heaviness = a * squared_magnitude(u)
    arriving = channels.feed @ precoder
    quadratic = (channels.reflected * heaviness.unsqueeze(-1)).mT @ channels.reflected.conj()
    quadratic = quadratic * (arriving.conj() @ arriving.mT)
    past = channels.direct.conj() @ precoder
    wanted = torch.diag_embed(a * u) - heaviness.unsqueeze(-1) * past
    gradient = channels.pulls(precoder, wanted).sum(-2) - (quadratic @ reflection.unsqueeze(-1)).squeeze(-1)
    turned = []
    columns = quadratic.permute(2, 1, 0).contiguous()  # the batch last, where it lies in one piece
    gradient = gradient.mT.contiguous()
    for n, before in enumerate(reflection.unbind(-1)):
        turned.append(unit_modulus(gradient[n] + columns[n, n] * before, before))
        gradient -= columns[n] * (turned[n] - before)
    return torch.stack(turned, dim=-1)


def rate_bound(state: SurfaceState) -> Tensor:
    r"""Weighted sum rate [B] that nothing can pass.

    Each user has the surface to itself and hears nothing of the others; at antenna t its channel is then
    :math:`|d_{kt}| + \sum_n |h_{kn}| |G_{nt}|` at most, and users only share the power.
    """
    c = state.channels
    largest = c.direct.abs() + c.reflected.abs() @ c.feed.abs()
    weights = state.weights[:, : c.direct.shape[1]]
    return (interference_free_rates(downlink_only(largest.to(c.direct.dtype)), weights) * weights).sum(-1)

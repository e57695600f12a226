"""Schedulers that follow a gradient: descent of the drift after service, and a plan for a future that is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from d2rl.problems.traffic.queues import DUST
from d2rl.problems.traffic.schedulers import Decision, weighted_wmmse
from d2rl.wireless.channel_state import ChannelState, concatenate
from d2rl.wireless.link_rates import link_rates

STEPS = 80  # of the descent of the drift
BEAM_STEP, AMPLITUDE_STEP = 0.04, 0.1  # of Adam at first; the steps shrink along a cosine
LAST_STEP = 0.05  # the last step over the first
BETAS = (0.8, 0.95)  # of Adam
TINY = 1e-12
FULL = 1 - 1e-5  # power of a precoder from which it counts as full

SLOTS = 8  # H, slots that a plan looks ahead
PLAN_STEPS = 20  # for a plan; each decision is improved in H plans before it is made

Rates = Callable[[ChannelState, Tensor, Tensor], Tensor]


def drift(queues: Tensor, rates: Tensor, exponent: float = 2.0) -> Tensor:
    """Squares of what a slot leaves in the queues, sum of max(q - R, 0)^2: [B].

    :param queues: [B, K], bit/s/Hz-slots
    :param rates: [B, K], bit/s/Hz
    :param exponent: in place of 2
    """
    return (queues - rates).clamp_min(0).pow(exponent).sum(-1)


def drift_descent(
    channels: ChannelState,
    queues: Tensor,
    steps: int = STEPS,
    rates: Rates = link_rates,
    exponent: float = 2.0,
    virtual: Tensor | None = None,
) -> Decision:
    """The drift after service, descended from a few iterations of WMMSE with queues as weights, never above theirs.

    WMMSE gives links more than they have to send; the drift counts only what is left. From where WMMSE has converged
    delays end no shorter.

    :param queues: [B, K], bit/s/Hz-slots
    :param rates: [B, K] that channels and a decision bring, differentiable
    :param exponent: of what is left in a queue; 1: the backlog, whose sum over slots is the delay
    :param virtual: [B, K], further queues that the same rates serve, of :func:`virtual_queues`
    """
    with torch.inference_mode(False), torch.enable_grad():
        channels, queues = channels.map(torch.clone), queues.clone()  # tensors of inference mode have no gradient
        virtual = torch.zeros_like(queues) if virtual is None else virtual.clone()
        waiting = queues + virtual
        start = weighted_wmmse(channels, (waiting > DUST) * waiting)

        def left(decision: Decision) -> Tensor:
            served = rates(channels, *decision)
            return drift(queues, served, exponent) + drift(virtual, torch.minimum(served, queues), exponent)

        return descend(left, start, steps)


def foresight(
    channels: Sequence[ChannelState],
    queues: Tensor,
    arrivals: Sequence[Tensor],
    plan: Sequence[Decision] = (),
    steps: int = PLAN_STEPS,
) -> list[Decision]:
    """Decisions of H slots that leave little waiting over all of them: a gradient through H slots of the queues.

    Knows what no scheduler can, so it is a ceiling.

    :param channels: of H slots, this one first
    :param queues: [B, K] in this slot, bit/s/Hz-slots
    :param arrivals: [B, K] each, what arrives between the H slots, H - 1 of them
    :param plan: decisions to start from in the first slots, such as the rest of an earlier plan; in the other slots the
        start is :func:`drift_descent`
    """
    with torch.inference_mode(False), torch.enable_grad():
        channels, queues = [one.map(torch.clone) for one in channels], queues.clone()
        arrivals = [one.clone() for one in arrivals]
        start, waiting = list(plan[: len(channels)]), queues
        for slot, state in enumerate(channels):
            if slot == len(start):
                start.append(drift_descent(state, waiting))
            left = (waiting - link_rates(state, *start[slot])).clamp_min(0)
            waiting = left + arrivals[slot] if slot < len(arrivals) else left
        joined, count = concatenate(channels), len(channels)

        def backlog(decision: Decision) -> Tensor:
            rates = link_rates(joined, *decision).unflatten(0, (count, -1))
            left, total = queues, torch.zeros_like(queues[:, 0])
            for slot, rate in enumerate(rates):
                left = ((left + arrivals[slot - 1] if slot else left) - rate).clamp_min(0)
                total = total + left.sum(-1)
            return total.repeat(count)

        precoder, power = (torch.cat(parts).clone() for parts in zip(*start, strict=True))
        precoder, power = descend(backlog, (precoder, power), steps)
        return list(zip(precoder.chunk(count), power.chunk(count), strict=True))


def descend(loss: Callable[[Decision], Tensor], start: Decision, steps: int) -> Decision:
    """Adam over beams and uplink amplitudes, projected onto the limits after every step; the best decision on the way.

    :param loss: of a decision, [B], differentiable; each cell's depends on its own decision
    :param start: precoder [B, N_t, K_D] and uplink power [B, K_U] within the limits
    """
    beams = torch.view_as_real(start[0].detach().resolve_conj()).clone().requires_grad_()
    amplitude = start[1].detach().sqrt().requires_grad_()
    variables, sizes = (beams, amplitude), (BEAM_STEP, AMPLITUDE_STEP)
    means = [torch.zeros_like(one) for one in variables]
    squares = [torch.zeros_like(one) for one in variables]
    best, lowest = [one.detach().clone() for one in variables], amplitude.new_full((len(amplitude),), math.inf)
    for step in range(steps + 1):
        value = loss((torch.view_as_complex(beams), amplitude.square()))
        better, lowest = value.detach() < lowest, torch.minimum(lowest, value.detach())
        with torch.no_grad():
            best = [torch.where(_like(better, one), one, kept) for one, kept in zip(variables, best, strict=True)]
        if step == steps:
            break
        gradients = list(torch.autograd.grad(value.sum(), variables))
        gradients[0] = _without_outward(gradients[0], beams.detach())
        shrunk = LAST_STEP + (1 - LAST_STEP) * (1 + math.cos(math.pi * step / steps)) / 2
        corrections = [1 - beta ** (step + 1) for beta in BETAS]
        with torch.no_grad():
            for one, gradient, mean, square, size in zip(variables, gradients, means, squares, sizes, strict=True):
                mean.lerp_(gradient, 1 - BETAS[0])
                square.lerp_(gradient.square(), 1 - BETAS[1])
                scale = (square / corrections[1]).sqrt() + TINY
                one -= shrunk * size * (mean / corrections[0]) / scale
            beams /= _power(beams).clamp_min(1).sqrt()
            amplitude.clamp_(0, 1)
    return torch.view_as_complex(best[0]), best[1].square()


def _without_outward(gradient: Tensor, beams: Tensor) -> Tensor:
    """The gradient at full power without a part that asks for more, which would pull Adam off the optimum."""
    power = _power(beams)
    along = (gradient * beams).sum((-3, -2, -1), keepdim=True) / power.clamp_min(TINY)
    return gradient - along.clamp_max(0) * (power > FULL) * beams


def _power(beams: Tensor) -> Tensor:
    return beams.square().sum((-3, -2, -1), keepdim=True)


def _like(rows: Tensor, tensor: Tensor) -> Tensor:
    return rows.reshape(-1, *[1] * (tensor.dim() - 1))

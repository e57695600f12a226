"""Powers that links receive, with a gradient in closed form: what a critic sees of every action, in every update."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.link_rates import add_noise, own_beams, squared_magnitude, suppressed, told_apart, whitened

HEARD_POWER = 1e-10  # added where a user's signal is divided by its SINR, which a silent user would make 0 / 0


def link_powers(channels: ChannelState, precoder: Tensor, uplink_power: Tensor) -> tuple[Tensor, Tensor]:
    """Signal, and interference plus noise, of every link, downlink first: two tensors [B, K_D + K_U].

    Downlink: what a user receives. Uplink: p_k ||h_k||^2, and that over SINR_U, so that the second part holds
    what other users, self-interference and noise cost after MMSE combining; a silent user would pay the same.

    The gradient reaches precoder and power, once, and no channel.

    :param precoder: [B, N_t, K_D]
    :param uplink_power: [B, K_U]
    """
    c = channels
    return LinkPowers.apply(precoder, uplink_power, c.downlink, c.uplink, c.cross, c.self_interference)


class LinkPowers(torch.autograd.Function):
    r"""The powers of :func:`link_powers`, whose operators and whose gradient's are as few as can be.

    With :math:`L = H_S W`, :math:`C = I + L L^H`, :math:`M = H^H C^{-1} H`, :math:`N = P^{1/2} M P^{1/2}` and
    :math:`X = (I + N)^{-1}`, user k's error is :math:`X_{kk} = 1 / (1 + \gamma_k)` and what it has to overcome
    :math:`p_k \|h_k\|^2 X_{kk} / (X N)_{kk}`. Backwards, :math:`dX_{kk} = -(X \, dN \, X)_{kk}`, the opposite of
    :math:`d(X N)_{kk}`, and :math:`dM = -K^H dC \, K` with :math:`K = C^{-1} H`.
    """

    @staticmethod
    def forward(
        ctx: Any, precoder: Tensor, power: Tensor, downlink: Tensor, uplink: Tensor, cross: Tensor, leak: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both powers, in the precision of the channels; the uplink's algebra in double."""
        received = downlink.conj() @ precoder
        own, crossed = own_beams(received), squared_magnitude(cross)
        wanted, others = told_apart(squared_magnitude(received), own, crossed, power)

        leakage = (leak @ precoder).to(torch.complex128)
        streams = uplink.to(torch.complex128).mT
        white, factor = whitened(streams, leakage)
        heard = power.double().clamp_min(0) + HEARD_POWER
        amplitude = heard.sqrt()
        scaled = white * amplitude.unsqueeze(-2)
        gram = scaled.mH @ scaled
        triangular = torch.linalg.cholesky_ex(add_noise(gram.clone()))[0]
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device).expand_as(gram)
        half = torch.linalg.solve_triangular(triangular, identity, upper=False)
        error = squared_magnitude(half).sum(-2)
        # 1 - error as the diagonal of X N: the difference would be lost in rounding for a faint user
        caught = (half.conj() * (half @ gram)).real.sum(-2).clamp_min(1e-300)
        gain = squared_magnitude(uplink).sum(-1)
        lost = heard * gain * error / caught
        ctx.save_for_backward(
            *(received, own, downlink, crossed, leak, leakage, factor, white, amplitude, gram, half),
            *(caught, lost, gain, power),
        )
        sent = (power.clamp_min(0) * gain).to(wanted.dtype)
        signal = torch.cat([wanted, sent], dim=-1)
        return signal, torch.cat([others, lost.clamp_min(1).to(wanted.dtype)], dim=-1)  # never below the noise

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_signal: Tensor, by_disturbance: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of precoder and power."""
        received, own, downlink, crossed, leak, leakage, factor, white, amplitude, gram, half, *rest = ctx.saved_tensors
        caught, lost, gain, power = rest
        users = received.shape[-1]
        by_wanted, by_sent = by_signal[..., :users], by_signal[..., users:]
        by_others, by_lost = by_disturbance[..., :users], by_disturbance[..., users:]

        by_powers = torch.where(own, by_wanted.unsqueeze(-1), by_others.unsqueeze(-1))
        by_precoder = downlink.mT @ (received * (2 * by_powers))
        by_power = (crossed @ by_others.unsqueeze(-1)).squeeze(-1) + by_sent * gain

        heard = amplitude.square()
        slope = torch.where(lost >= 1, by_lost.double(), 0)
        inverse = half.mH @ half
        by_gram = (inverse * (slope * (heard * gain + lost) / caught).unsqueeze(-2)) @ inverse.mH
        by_scale = (by_gram.conj() * gram).real.sum(-1) / heard
        by_power = by_power + (slope * lost / heard - by_scale).to(by_power.dtype)
        scaled = amplitude.unsqueeze(-1) * amplitude.unsqueeze(-2)
        combined, leaked = suppressed(white, leakage, factor)
        by_leakage = (combined @ (by_gram * scaled)) @ leaked
        by_precoder = by_precoder + leak.mH @ (2 * by_leakage).to(by_precoder.dtype)
        return by_precoder, torch.where(power >= 0, by_power, 0), None, None, None, None

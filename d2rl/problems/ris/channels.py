"""Channels by way of a surface, and the rates that phases and beams reach on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from d2rl.common.tensor_struct import TensorStruct
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.link_rates import downlink_powers, link_rates, squared_magnitude
from d2rl.wireless.precoders import full_uplink_power

Decision = tuple[Tensor, Tensor]  # reflection [B, N], complex, |v_n| = 1; precoder [B, N_t, K], total power 1 at most


@dataclass(frozen=True)
class SurfaceChannels(TensorStruct):
    """Noise-normalised channels of B states; noise and P are folded in.

    :param direct: [B, K, N_t], complex; d_k, from the base station past the surface to user k
    :param feed: [B, N, N_t], complex; G, from the base station to the surface
    :param reflected: [B, K, N], complex; h_k, from the surface to user k
    """

    direct: Tensor
    feed: Tensor
    reflected: Tensor

    def effective(self, reflection: Tensor) -> ChannelState:
        r"""What remains once the surface is set: an ordinary downlink.

        .. math:: g_k = d_k + G^H \mathrm{diag}(v)^H h_k, \quad \text{user } k \text{ receives } g_k^H w

        :param reflection: [B, N], complex; v
        """
        return downlink_only(self.direct + (self.reflected * reflection.conj().unsqueeze(-2)) @ self.feed.conj())

    def pulls(self, precoder: Tensor, wanted: Tensor) -> Tensor:
        r"""Where each user would have every element turn: the gradient of its received signals.

        .. math:: \frac{\partial}{\partial v_n^*} \sum_j 2 \,\mathrm{Re}(x_{kj}^* \, g_k^H w_j)
            = h_{kn} \sum_j x_{kj} \, (G w_j)_n^*

        :param precoder: [B, N_t, J], complex; columns w_j
        :param wanted: [B, K, J], complex; x
        :returns: [B, K, N], complex
        """
        return self.reflected * (wanted @ (self.feed @ precoder).mH)


def downlink_only(channels: Tensor) -> ChannelState:
    """A cell without uplink.

    :param channels: [B, K, N_t], complex; g_k
    """
    batch, users, antennas = channels.shape
    empty = [channels.new_zeros(shape) for shape in ((batch, 0, 1), (batch, 0, users), (batch, 1, antennas))]
    return ChannelState(channels, *empty)


def user_rates(channels: SurfaceChannels, decision: Decision) -> Tensor:
    """Rate of every user, [B, K] in bit/s/Hz; see :func:`link_rates`."""
    reflection, precoder = decision
    cell = channels.effective(reflection)
    return link_rates(cell, precoder, full_uplink_power(cell))


def rate_pulls(channels: SurfaceChannels, decision: Decision) -> tuple[Tensor, Tensor]:
    r"""Gradient of each user's rate in every element, up to a common factor: signal minus interference.

    .. math:: \frac{\partial \ln(1 + \gamma_k)}{\partial v_n^*} \propto
        h_{kn} \Big( \frac{r_{kk}}{T_k} (G w_k)_n^* - \frac{\gamma_k}{T_k} \sum_{j \ne k} r_{kj} (G w_j)_n^* \Big),
        \quad r_{kj} = g_k^H w_j

    with T_k everything that user k receives, noise included.

    :returns: what it would have for its signal's sake; what it would have less of: two tensors [B, K, N], complex
    """
    reflection, precoder = decision
    cell = channels.effective(reflection)
    received = cell.downlink.conj() @ precoder
    signal, disturbance = downlink_powers(cell, precoder, full_uplink_power(cell))
    own = torch.diag_embed(received.diagonal(dim1=-2, dim2=-1))
    total, sinr = (signal + disturbance).unsqueeze(-1), (signal / disturbance).unsqueeze(-1)
    return channels.pulls(precoder, own / total), channels.pulls(precoder, (received - own) * sinr / total)


def unit_modulus(value: Tensor, otherwise: Tensor) -> Tensor:
    """Phases of complex numbers, e^(j arg z); of numbers too small to have one those of ``otherwise``.

    :param value: z, of any shape, complex
    :param otherwise: like ``value``, of modulus 1
    """
    magnitude = squared_magnitude(value)
    seen = magnitude > torch.finfo(magnitude.dtype).tiny
    return torch.where(seen, value / magnitude.where(seen, 1).sqrt(), otherwise)

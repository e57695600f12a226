"""Action heads: from numbers in [-1, 1] to precoders and uplink powers that respect the limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from d2rl.common.complex_pair import complex_like
from d2rl.common.within import within
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.link_rates import FAINT_POWER, add_noise, solve, squared_magnitude, unit_columns
from d2rl.wireless.precoders import regularised_inverses, user_gram
from d2rl.wireless.priced_step import priced_step
from d2rl.wireless.shaped_beams import shaped_beams


@dataclass(frozen=True)
class ActionLayout:
    """A flat action holds the numbers of every downlink user, then those of every uplink user.

    :param down: numbers of a downlink user
    :param up: numbers of an uplink user
    """

    down: int
    up: int

    def size(self, channels: ChannelState) -> int:
        """Length of the flat action."""
        return self.down * channels.downlink_users + self.up * channels.uplink_users

    def split(self, action: Tensor, downlink_users: int) -> tuple[Tensor, Tensor]:
        """[..., K_D, down] and [..., K_U, up] from a flat action."""
        down, up = action.tensor_split([downlink_users * self.down], dim=-1)
        return down.unflatten(-1, (-1, self.down)), up.unflatten(-1, (-1, self.up))


class ActionHead(Protocol):
    """Decodes actions; numbers outside [-1, 1] count as -1 or 1, so that the limits hold for every action."""

    layout: ActionLayout

    def decode(
        self, channels: ChannelState, action: Tensor, basis: Tensor | None = None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Precoder [B, N_t, K_D] of total power 1 at most and uplink power [B, K_U] in [0, 1].

        :param basis: :func:`beam_basis` of the channels, where it is at hand
        :param weights: [B, K_D + K_U], priority of every link; None: 1
        """


class StructuredHead:
    r"""The shape that every stationary point of the sum rate has.

    .. math:: w_j \propto \Big(I + \sum_l \lambda_l g_l g_l^H + H_S^H \sum_k \nu_k v_k v_k^H H_S\Big)^{-1} g_j

    with unit norm times the root of a softmax power share, v_k the MMSE combiner without
    self-interference. Two numbers per user, whatever the number of antennas:
    (lambda, power share) of a downlink user, (p, nu) of an uplink user.

    At a stationary point v_k is the combiner under the self-interference of the very beams: every further pass takes
    it from the beams of the pass before, and makes them again of the same numbers.

    :param passes: how often the beams are made
    """

    def __init__(self, passes: int = 1):
        self.passes = passes

    layout = ActionLayout(down=2, up=2)
    lambda_range = (-1.0, 5.0)  # log10 of lambda_l ||g_l||^2
    nu_range = (0.0, 8.0)  # log10 of nu_k ||H_S^H v_k||^2
    share_range = 5.0  # a share is softmax(5 a)
    power_slope = (2.0, 6.0)  # p = sigmoid(2 + 6 a): from 0.02 to 1, near full power at a = 0

    def decode(
        self, channels: ChannelState, action: Tensor, basis: Tensor | None = None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Precoder and uplink power.

        :param channels: what the base station knows, B states
        :param action: [B, 2 (K_D + K_U)] in [-1, 1], the two numbers of each user side by side
        :param basis: :func:`beam_basis` of the channels, where it is at hand
        :param weights: [B, K_D + K_U], priority of every link, which :class:`SettlingHead` alone looks at; None: 1
        :returns: precoder [B, N_t, K_D], total power 1; uplink power [B, K_U] in [0, 1]
        """
        strength, share, power = self.read(_bounded(action, channels, self.layout), channels.downlink_users)
        down, basis = channels.downlink_users, beam_basis(channels) if basis is None else basis
        amplitude = (share.double() + FAINT_POWER).sqrt()  # that of a silent user keeps a finite gradient
        precoder = shaped_beams(basis, strength, amplitude)
        exact = channels.double() if self.passes > 1 else channels
        for _ in range(1, self.passes):
            leakage = leakage_directions(exact, settled_combiners(exact, precoder, power.double()))
            precoder = shaped_beams(torch.cat([basis[..., :down], leakage], dim=-1), strength, amplitude)
        return precoder.to(channels.downlink.dtype), power

    def read(self, action: Tensor, downlink_users: int) -> tuple[Tensor, Tensor, Tensor]:
        """What the numbers of an action mean.

        :param action: [..., 2 (K_D + K_U)] in [-1, 1]
        :returns: lambda_l ||g_l||^2 and nu_k ||H_S^H v_k||^2 [..., K_D + K_U]; power shares [..., K_D]; p [..., K_U]
        """
        down, up = self.layout.split(action, downlink_users)
        strength = [_log_scale(down[..., 0], self.lambda_range), _log_scale(up[..., 1], self.nu_range)]
        offset, slope = self.power_slope
        share = torch.softmax(self.share_range * down[..., 1], dim=-1)
        return torch.cat(strength, dim=-1), share, torch.sigmoid(offset + slope * up[..., 0])


class SwitchingHead(StructuredHead):
    r"""A :class:`StructuredHead` that can silence users.

    .. math:: p = \frac{\sigma(2 + 6 a) - \sigma(-4)}{\sigma(8) - \sigma(-4)}, \quad s_j \propto e^{5 (a_j + 1)} - 1

    run from exactly 0; p to exactly 1, the shares to a sum of 1, unless all of them are next to nothing. The floors
    that this takes away, -17 dB of p and -43 dB of s, are far above noise, and with more users than antennas not every
    user can be served: those that are left out must be silent.
    """

    least_sum = 0.05  # of what the shares are made of: below it the whole downlink fades

    def read(self, action: Tensor, downlink_users: int) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`StructuredHead.read`, with p and shares from exactly 0.

        :param action: [..., 2 (K_D + K_U)] in [-1, 1]
        """
        strength, _, power = super().read(action, downlink_users)
        offset, slope = self.power_slope
        low, high = (1 / (1 + math.exp(-end)) for end in (offset - slope, offset + slope))
        down, up = self.layout.split(action, downlink_users)
        shares = torch.exp(self.share_range * (down[..., 1] + 1)) - 1
        share = shares / shares.sum(-1, keepdim=True).clamp_min(self.least_sum)
        switched = ((power - low) / (high - low)).clamp(0, 1)
        return strength, share, switched.masked_fill(up[..., 0] <= -1, 0)  # where rounding may leave a trace of power


class SettlingHead(SwitchingHead):
    """A :class:`SwitchingHead` whose decisions settle, and whose combiners know where self-interference will be.

    The combiners that beams spare are those under beams that spare nobody, 25 dB below the real ones: about what is
    left of self-interference in the end. Some :func:`priced_step` from there bring powers and beams nearer to the
    stationary point that the numbers aim at.

    :param passes: these steps
    """

    faint = 10**-1.25  # of the amplitudes

    def decode(
        self, channels: ChannelState, action: Tensor, basis: Tensor | None = None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`StructuredHead.decode`."""
        strength, share, power = self.read(_bounded(action, channels, self.layout), channels.downlink_users)
        down, exact = channels.downlink_users, channels.double()
        priority = torch.ones_like(strength, dtype=torch.float64) if weights is None else weights.double()
        wanted_down, wanted_up = (priority > 0).split([down, channels.uplink_users], dim=-1)
        power = power.double() * wanted_up
        directions = (beam_basis(channels) if basis is None else basis)[..., :down]
        amplitude = (share.double() * wanted_down + FAINT_POWER).sqrt()  # a silent user's keeps a finite gradient
        unsparing = shaped_beams(directions, strength[..., :down], self.faint * amplitude)
        leakage = leakage_directions(exact, settled_combiners(exact, unsparing, power))
        precoder = shaped_beams(torch.cat([directions, leakage], dim=-1), strength, amplitude)
        amplitude = (power + FAINT_POWER).sqrt()
        for _ in range(self.passes):
            _, precoder, amplitude = priced_step(exact, precoder, amplitude, priority)
        kind = channels.downlink.dtype
        return precoder.to(kind), amplitude.square().clamp(0, 1).to(action.dtype)


class BeamformingHead:
    """The paper's head: real and imaginary parts of W, scaled to the power ball, and p.

    2 N_t K_D + K_U numbers: for each downlink user 2 N_t of its beam, then one power per uplink user.
    """

    def __init__(self, transmit_antennas: int):
        self.layout = ActionLayout(down=2 * transmit_antennas, up=1)

    def decode(
        self, channels: ChannelState, action: Tensor, basis: Tensor | None = None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Precoder [B, N_t, K_D] with total power 1 at most; uplink power [B, K_U] in [0, 1].

        :param action: [B, 2 N_t K_D + K_U] in [-1, 1]
        :param basis, weights: not needed by this head
        """
        beams, power = self.layout.split(_bounded(action, channels, self.layout), channels.downlink_users)
        precoder = complex_like(channels.downlink, beams.unflatten(-1, (-1, 2))).mT
        norm = squared_magnitude(precoder).sum((-2, -1), keepdim=True).clamp_min(1).sqrt()
        return precoder / norm, (power.squeeze(-1) + 1) / 2

    def executed(self, action: Tensor, downlink_users: int) -> Tensor:
        """The numbers of what is carried out: beams after the power limit, in units of what each number has on average.

        :param action: [..., 2 N_t K_D + K_U] in [-1, 1]
        """
        beams, power = action.tensor_split([self.layout.down * downlink_users], dim=-1)
        norm = beams.square().sum(-1, keepdim=True).clamp_min(1).sqrt()
        return torch.cat([beams * (beams.shape[-1] ** 0.5 / norm), power], dim=-1)


def settled_combiners(channels: ChannelState, precoder: Tensor, power: Tensor) -> Tensor:
    """MMSE combiners Q^-1 h_k under the self-interference of a decision, of any scale: [B, N_r, K_U].

    :param channels: in double
    :param precoder: [B, N_t, K_D]
    :param power: [B, K_U]
    """
    leaked, streams = channels.self_interference @ precoder, channels.uplink.mT
    gram = leaked @ leaked.mH + (streams * power.unsqueeze(-2)) @ streams.mH
    return solve(add_noise(gram), streams)


def beam_basis(channels: ChannelState, combiners: Tensor | None = None) -> Tensor:
    """Directions that the structured head's beams are made of: [B, N_t, K_D + K_U], in double.

    The :func:`downlink_directions`, then the :func:`leakage_directions`; no action changes them.

    :param combiners: :func:`uplink_combiners` of the channels, where they are at hand
    """
    exact = channels.double()
    return torch.cat([downlink_directions(exact), leakage_directions(exact, combiners)], dim=-1)


def uplink_combiners(channels: ChannelState, inverse: Tensor | None = None) -> Tensor:
    """MMSE combiners without self-interference at full uplink power, unit norm: [B, N_r, K_U].

    :param inverse: (I + H^H H)^-1 of :func:`regularised_inverses`, where it is at hand
    """
    streams = channels.uplink.to(torch.complex128).mT
    if inverse is None:
        (inverse,) = regularised_inverses((user_gram(channels.uplink), 1))
    return unit_columns(streams @ inverse).to(channels.uplink.dtype)


def downlink_directions(channels: ChannelState) -> Tensor:
    """Unit vectors g_j / ||g_j||: [B, N_t, K_D]; zero for a user that hears nothing."""
    return unit_columns(channels.downlink.mT)


def leakage_directions(channels: ChannelState, combiners: Tensor | None = None) -> Tensor:
    """Unit vectors along H_S^H v_k, where self-interference reaches uplink user k: [B, N_t, K_U].

    :param combiners: :func:`uplink_combiners` of the channels, where they are at hand
    """
    combiners = uplink_combiners(channels) if combiners is None else combiners.to(channels.uplink.dtype)
    return unit_columns(channels.self_interference.mH @ combiners)


def make_head(name: str, transmit_antennas: int, passes: int = 1) -> ActionHead:
    """The head called ``structured``, ``switching``, ``settling`` or ``beamforming``.

    :param passes: how often the first two make their beams, and how often the third lets them settle
    :raises ValueError: another name
    """
    if name == "structured":
        return StructuredHead(passes)
    if name == "switching":
        return SwitchingHead(passes)
    if name == "settling":
        return SettlingHead(passes)
    if name == "beamforming":
        return BeamformingHead(transmit_antennas)
    raise ValueError(f"action head {name!r} is unknown; choose structured, switching, settling or beamforming")


def _bounded(action: Tensor, channels: ChannelState, layout: ActionLayout) -> Tensor:
    expected = (channels.batch, layout.size(channels))
    if action.shape != expected:
        raise ValueError(f"action {tuple(action.shape)} does not fit channels and head, which ask for {expected}")
    return within(action, -1, 1)


def _log_scale(action: Tensor, bounds: tuple[float, float]) -> Tensor:
    low, high = bounds
    half = math.log(10) * (high - low) / 2
    return torch.exp(half * action + (math.log(10) * low + half))

"""Schedulers without learning: beams and powers from channels, queues, delays and average rates; batched.

Every function returns a precoder [B, N_t, K_D] and uplink powers [B, K_U]. ``queues`` [B, K] is in bit/s/Hz-slots, of
which a slot serves min(queue, rate); ``waiting`` [B, K] is the age of a queue's first packet in slots. A link with an
empty queue has weight 0 and stays silent.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from d2rl.problems.traffic.queues import DUST
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.convergence import refined
from d2rl.wireless.link_rates import squared_magnitude
from d2rl.wireless.precoders import full_uplink_power, rzf
from d2rl.wireless.wmmse import improve

Decision = tuple[Tensor, Tensor]

ITERATIONS = 40  # of WMMSE for weights of rates, which silence some links for long once it has converged
CONVERGED = 200  # of accelerated WMMSE, for queues and slots left; with 500 MaxWeight's delay is 0.3 % shorter
GROUP = 4  # links of each direction in a slot: of 1, 2, 3, 4 and 6 the one of the smallest delays at load 1
SMALLEST_THROUGHPUT = 1e-2  # bit/s/Hz: a link that was never served does not get an infinite weight
PATIENCE = 1e3  # slots: slack of a packet without a deadline


def round_robin(channels: ChannelState, queues: Tensor, slot: int | Tensor, group: int = GROUP) -> Decision:
    """A group of links of each direction in turn, links with nothing to send left out; RZF beams, full power.

    :param slot: number of the slot, one for all cells or [B]
    :param group: links of each direction in one slot
    """
    directions = queues.split([channels.downlink_users, channels.uplink_users], dim=-1)
    return full_power(channels, torch.cat([_in_turn(part > DUST, slot, group) for part in directions], dim=-1))


def weighted_wmmse(channels: ChannelState, weights: Tensor, iterations: int = ITERATIONS) -> Decision:
    """WMMSE from RZF at full power of the links that have a weight; silence where none has.

    :param weights: [B, K], not negative; their scale does not matter
    """
    return improve(channels, *full_power(channels, weights > 0), weights, iterations)


def weighted_optimum(channels: ChannelState, weights: Tensor, iterations: int = CONVERGED) -> Decision:
    """Accelerated WMMSE from the same start until it has converged.

    :param weights: [B, K], not negative; their scale does not matter
    :param iterations: at most
    """
    served = weights > 0
    precoder, power = refined(channels, *full_power(channels, served), weights, iterations)
    down, up = served.split([channels.downlink_users, channels.uplink_users], dim=-1)
    return precoder * down.unsqueeze(-2), power * up


def full_power(channels: ChannelState, served: Tensor) -> Decision:
    """RZF beams of equal power, 1 in total, and full uplink power of the links served, silence of the others.

    :param served: [B, K] bool
    """
    down, up = served.split([channels.downlink_users, channels.uplink_users], dim=-1)
    beams = rzf(replace(channels, downlink=channels.downlink * down.unsqueeze(-1)))
    power = squared_magnitude(beams).sum((-2, -1), keepdim=True)
    return beams / power.clamp_min(1e-30).sqrt(), full_uplink_power(channels) * up


def proportional_fair(
    channels: ChannelState, queues: Tensor, throughput: Tensor, iterations: int = ITERATIONS
) -> Decision:
    """Weights 1 / average rate (Viswanath, Tse and Laroia, IEEE Trans. Inf. Theory 2002).

    :param throughput: [B, K], average rate of every link so far, bit/s/Hz
    """
    weights = (queues > DUST) / throughput.clamp_min(SMALLEST_THROUGHPUT)
    return weighted_wmmse(channels, weights, iterations)


def max_weight(channels: ChannelState, queues: Tensor, iterations: int = CONVERGED, exponent: float = 1.0) -> Decision:
    """Weights = queues, which keeps queues bounded wherever a scheduler can (Tassiulas and Ephremides, 1992).

    :param exponent: 1, or 0.5 for weights that are the square roots of the queues
    """
    return weighted_optimum(channels, (queues > DUST) * queues.pow(exponent), iterations)


def largest_weighted_delay(
    channels: ChannelState,
    queues: Tensor,
    waiting: Tensor,
    throughput: Tensor,
    deadlines: Tensor,
    iterations: int = ITERATIONS,
) -> Decision:
    """M-LWDF: weights = waiting / (deadline x average rate) (Andrews et al., IEEE Commun. Mag. 2001).

    :param throughput: [B, K], average rate of every link so far, bit/s/Hz
    :param deadlines: [B, K] or [K], slots; infinite: none
    """
    urgency = (waiting + 1) / deadlines.clamp_max(PATIENCE)
    weights = (queues > DUST) * urgency / throughput.clamp_min(SMALLEST_THROUGHPUT)
    return weighted_wmmse(channels, weights, iterations)


def earliest_deadline(
    channels: ChannelState, queues: Tensor, waiting: Tensor, deadlines: Tensor, iterations: int = CONVERGED
) -> Decision:
    """EDF: weights = 1 / slots that are left until the first packet's deadline.

    :param deadlines: [B, K] or [K], slots; infinite: none
    """
    left = (deadlines - waiting).clamp(1, PATIENCE)
    return weighted_optimum(channels, (queues > DUST) / left, iterations)


def virtual_queues(queues: Tensor, throughput: Tensor, minimum: float, window: int) -> Tensor:
    """Bits that links with something to send lack of a minimum rate over a window, [B, K], bit/s/Hz-slots.

    Added to queues they make MaxWeight and the descent of the drift keep minimum rates (Neely, *Stochastic Network
    Optimization*, 2010).

    :param throughput: [B, K], average rate of every link so far, bit/s/Hz
    :param minimum: bit/s/Hz
    :param window: slots
    """
    return (minimum - throughput).clamp_min(0) * window * (queues > DUST)


def _in_turn(asking: Tensor, slot: int | Tensor, group: int) -> Tensor:
    """[B, K] bool: the next ``group`` of the links that ask, counted round from the slot's first link.

    :param asking: [B, K] bool
    """
    users = asking.shape[-1]
    first = torch.as_tensor(slot, device=asking.device).reshape(-1, 1) * group
    place = (torch.arange(users, device=asking.device) - first) % users
    order = torch.where(asking, place, users).argsort(dim=-1).argsort(dim=-1)
    return asking & (order < group)

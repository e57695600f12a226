r"""WMMSE run until it has converged: a faster fixed point with the same solutions, and the plain step as safeguard.

A WMMSE iteration moves the power of a link of SINR :math:`\gamma` by about :math:`1 / \gamma` of the way: a strong link
needs thousands. The priced step has the same stationary points and goes the whole way; Anderson's method
extrapolates from several of its steps. The plain iteration is the safeguard (docs/method.md, Convergence).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from d2rl.common.errors import InputError, counted
from d2rl.common.notices import notice_once
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.link_rates import solve, squared_magnitude
from d2rl.wireless.priced_step import priced_step
from d2rl.wireless.wmmse import prepare, wmmse_iteration

TOLERANCE = 1e-5  # relative change of the objective ...
WINDOW = 50  # ... over so many iterations
LIMIT = 10_000  # iterations
CHECKED = 25  # iterations between two looks at what has converged
MEMORY = 5  # steps from which the next point is extrapolated
REGULARISATION = 1e-10  # of their least-squares problem, relative to its trace
MONOTONE = 150  # iterations in which no step may lower the objective
SLACK = 5e-3  # by which an extrapolated point may lower it later, relatively: it leaves a bent ridge that way
KEPT_AMPLITUDE = 0.3  # an extrapolated amplitude falls to this share of the step's at least: from 0 none returns
VALUES = 300_000  # numbers of the decisions that are worked on at a time, which bounds memory
EXTRAPOLATED, PRICED, PLAIN = range(3)  # kinds of a candidate, in the order in which they are tried


def converged_wmmse(
    channels: ChannelState,
    starts: int = 1,
    weights: Tensor | None = None,
    initial: tuple[Tensor, Tensor] | None = None,
    tolerance: float = TOLERANCE,
    limit: int = LIMIT,
    watch: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Local optimum of the weighted sum rate, the best over several starting points, each run until it has converged.

    A state has converged when its objective rose by less than ``tolerance``, relatively, over 50 iterations from every
    start. A notice says how many states had not within ``limit`` iterations.

    :param channels: B states
    :param starts: starting points, 1 to 12, as of :func:`~d2rl.wireless.wmmse`
    :param weights: [B, K_D + K_U], priority of every link; default 1
    :param initial: (precoder, uplink_power) to start from instead
    :param tolerance: above 0
    :param limit: iterations, 1 or more
    :param watch: called now and then with the number of starts that are done, and of all
    :returns: precoder [B, N_t, K_D] complex64 and uplink power [B, K_U]
    :raises InputError: what :func:`~d2rl.wireless.wmmse` refuses; a tolerance or a limit out of range
    """
    if not tolerance > 0:
        raise InputError(f"WMMSE converges to a tolerance above 0, got {tolerance:g}")
    if limit < 1:
        raise InputError(f"WMMSE needs a limit of 1 iteration or more, got {limit}")
    start = prepare(channels, starts, weights, initial)
    ends, moving = [], []
    together = max(1, VALUES // max(1, start.precoder[0].numel()))
    for begin in range(0, start.channels.batch, together):
        part = slice(begin, begin + together)
        ascent = Ascent(start.channels[part].double(), start.precoder[part], start.power[part], start.weights[part])
        done = None if watch is None else partial(_watched, watch, begin, len(ascent.places), start.channels.batch)
        moving.append(begin + ascent.run(tolerance, limit, done))
        ends.append(ascent.decision())
    states = len((torch.cat(moving) // start.starts).unique()) if moving else 0
    if states:
        notice_once(
            f"WMMSE had not converged after {limit} iterations in {states} of {counted(channels.batch, 'state')}; "
            "their decisions are used as they are"
        )
    precoder, power = (torch.cat(parts) for parts in zip(*ends, strict=True))
    kind = channels.downlink.dtype
    return start.best(precoder.to(kind), power.to(kind.to_real()))


def refined(
    channels: ChannelState, precoder: Tensor, power: Tensor, weights: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """The best decisions on the way of some iterations from given ones, which respect the limits.

    Checks nothing; :func:`converged_wmmse` with ``initial`` does.

    :param channels: B states
    :param precoder: [B, N_t, K_D]
    :param power: [B, K_U]
    :param weights: [B, K_D + K_U], priority of every link
    :param iterations: 1 or more
    :returns: precoder and uplink power, in the precision of the channels
    """
    ascent = Ascent(channels.double(), precoder, power, weights)
    ascent.run(TOLERANCE, iterations)
    precoder, power = ascent.decision()
    return precoder.to(channels.downlink.dtype), power.to(channels.downlink.real.dtype)


class Ascent:
    """Iterations of B states, each of which leaves the batch when it has converged.

    :param channels: B states in double precision
    :param precoder: [B, N_t, K_D], complex, where they start
    :param power: [B, K_U], likewise
    :param weights: [B, K_D + K_U]
    """

    def __init__(self, channels: ChannelState, precoder: Tensor, power: Tensor, weights: Tensor):
        self.channels, self.weights = channels, weights.double()
        self.shape = precoder.shape[1:]
        self.point = self._joined(precoder.to(torch.complex128), power.double().sqrt())
        self.objective, self.stepped = self._priced(self.point)
        batch, size = self.point.shape
        self.moves = self.point.new_zeros(batch, size, MEMORY)  # differences of points and of their steps
        self.changes = torch.zeros_like(self.moves)
        self.kind = torch.full((batch,), PRICED, device=self.point.device)
        self.stuck = torch.zeros_like(self.kind, dtype=torch.bool)
        self.places = torch.arange(batch, device=self.point.device)
        self.highest, self.reached = self.point, self.objective  # the best point so far, and its objective
        self.ends = self.point.clone()

    def run(self, tolerance: float, limit: int, left: Callable[[int], None] | None = None) -> Tensor:
        """Iterate until all have converged; which states have not, [n], int64.

        :param left: called now and then with the number of states that are still on the way
        """
        history = [self.reached]
        candidate = self.stepped
        for iteration in range(1, limit + 1):
            candidate = self._advance(candidate, iteration % MEMORY, 0 if iteration <= MONOTONE else SLACK)
            if iteration % CHECKED and iteration < limit:
                continue
            history = [*history[-WINDOW // CHECKED :], self.reached]
            self.ends[self.places] = self.highest
            if len(history) <= WINDOW // CHECKED:
                continue
            risen = self.reached - history[-1 - WINDOW // CHECKED]
            moving = (risen > tolerance * self.reached.abs()) & ~self.stuck
            count = int(moving.sum())
            if left is not None:
                left(count)
            if count == 0:
                return self.places[:0]
            if count < len(moving):
                self._keep(moving)
                candidate = candidate[moving]
                history = [past[moving] for past in history]
        return self.places

    def decision(self) -> tuple[Tensor, Tensor]:
        """Precoder and uplink power where all states are."""
        precoder, amplitude = self._split(self.ends)
        return precoder, amplitude.square()

    def _advance(self, candidate: Tensor, slot: int, slack: float) -> Tensor:
        """Take the candidates that do not lower the objective, an extrapolated one by ``slack`` at most; the next ones.

        A candidate that was refused is followed by the priced step, and that by the WMMSE iteration, which can lower
        the objective by rounding alone: the state is at its end then.
        """
        objective, stepped = self._priced(candidate)
        lowest = self.objective - slack * self.objective.abs() * (self.kind == EXTRAPOLATED)
        taken = (objective >= lowest) & torch.isfinite(stepped).all(-1)
        self.stuck |= ~taken & (self.kind == PLAIN)
        row = taken.unsqueeze(-1)
        move = torch.where(row, candidate - self.point, 0)
        change = torch.where(row, (stepped - candidate) - (self.stepped - self.point), 0)
        self.moves *= row.unsqueeze(-1)
        self.changes *= row.unsqueeze(-1)
        self.moves[..., slot], self.changes[..., slot] = move, change
        self.point = torch.where(row, candidate, self.point)
        self.stepped = torch.where(row, stepped, self.stepped)
        self.objective = torch.where(taken, objective, self.objective)
        higher = self.objective > self.reached
        self.reached = torch.where(higher, self.objective, self.reached)
        self.highest = torch.where(higher.unsqueeze(-1), self.point, self.highest)
        self.kind = torch.where(taken, EXTRAPOLATED, (self.kind + 1).clamp_max(PLAIN))
        following = torch.where(row, self._extrapolated(), self.stepped)
        plain = (self.kind == PLAIN).nonzero().squeeze(-1)
        if len(plain):
            at = self._split(self.point[plain])
            following[plain] = self._joined(*wmmse_iteration(self.channels[plain], *at, self.weights[plain]))
        return following

    def _extrapolated(self) -> Tensor:
        """Anderson's next point (type II), within the limits."""
        gram = self.changes.mT @ self.changes
        ridge = REGULARISATION * gram.diagonal(dim1=-2, dim2=-1).sum(-1) + 1e-300
        gram.diagonal(dim1=-2, dim2=-1).add_(ridge.unsqueeze(-1))
        residual = (self.stepped - self.point).unsqueeze(-1)
        mixture = solve(gram, self.changes.mT @ residual)
        precoder, amplitude = self._split(self.stepped - ((self.moves + self.changes) @ mixture).squeeze(-1))
        norm = squared_magnitude(precoder).sum((-2, -1), keepdim=True).sqrt()
        least = KEPT_AMPLITUDE * self._split(self.stepped)[1]
        return self._joined(precoder / norm.clamp_min(1), torch.maximum(amplitude, least).clamp_max(1))

    def _priced(self, point: Tensor) -> tuple[Tensor, Tensor]:
        before, amplitude = self._split(point)
        objective, precoder, amplitude = priced_step(self.channels, before, amplitude, self.weights)
        own = (self.channels.downlink.conj() * before.mT).sum(-1)  # a beam keeps its phase
        return objective, self._joined(precoder * own.sgn().unsqueeze(-2), amplitude)

    def _keep(self, moving: Tensor) -> None:
        self.channels = self.channels[moving]
        states = ("weights", "point", "objective", "stepped", "highest", "reached", "moves", "changes", "kind", "stuck")
        for name in (*states, "places"):
            setattr(self, name, getattr(self, name)[moving])

    def _joined(self, precoder: Tensor, amplitude: Tensor) -> Tensor:
        return torch.cat([torch.view_as_real(precoder.resolve_conj()).flatten(1), amplitude], dim=-1)

    def _split(self, point: Tensor) -> tuple[Tensor, Tensor]:
        n_t, k_d = self.shape
        coefficients, amplitude = point.tensor_split([2 * n_t * k_d], dim=-1)
        pairs = coefficients.reshape(len(point), n_t, k_d, 2)
        return torch.complex(pairs[..., 0], pairs[..., 1]), amplitude


def _watched(watch: Callable[[int, int], None], before: int, states: int, total: int, left: int) -> None:
    watch(before + states - left, total)

"""What a base station could do without learning, on the channels that it knows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from d2rl.common.errors import counted
from d2rl.common.notices import notice_once
from d2rl.problems.base import stream
from d2rl.problems.full_duplex.kept_decisions import cache_directory, kept
from d2rl.problems.full_duplex.simulator import CellState
from d2rl.wireless import ChannelState, converged_wmmse, full_uplink_power, mrt, random_decision, rzf, wmmse, zf
from d2rl.wireless.antenna_power import within_antenna_power
from d2rl.wireless.convergence import LIMIT as CONVERGENCE_LIMIT
from d2rl.wireless.fairness import fair_wmmse
from d2rl.wireless.link_rates import Decision
from d2rl.wireless.objectives import Objective

if TYPE_CHECKING:
    from rich.progress import Progress

VERSION = 1  # of what the searches below find in a state; a change of it makes all that is kept unknown
LIMIT = CONVERGENCE_LIMIT  # iterations from a start
ITERATIONS = 200  # of WMMSE that has not converged
STARTS = 12  # of the best known decision
MOST = 1024  # states for which it is searched
PATIENCE = 3.0  # seconds without a word

Policy = Callable[[CellState], Decision]


class Search:
    """WMMSE until it has converged, as a policy; what it finds is kept.

    :param name: of the reference
    :param starts: of WMMSE
    :param timed: whether one decision is to be timed
    :param most: states that it is made for
    """

    def __init__(self, name: str, starts: int, timed: bool = True, most: int | None = None):
        self.name, self.starts, self.timed, self.most = name, starts, timed, most

    @property
    def method(self) -> str:
        """What the decisions depend on beside the states."""
        return f"{self.name} starts={self.starts} version={VERSION}"

    def __call__(self, state: CellState) -> Decision:
        """The decisions, from a file if they have been found before."""
        return kept(self.method, LIMIT, state.estimate, state.weights, lambda: self._found(state))

    def fresh(self, state: CellState, watch: Callable[[int, int], None] | None = None) -> Decision:
        """The decisions, found anew."""
        return converged_wmmse(state.estimate, self.starts, state.weights, limit=LIMIT, watch=watch)

    def _found(self, state: CellState) -> Decision:
        with Told(f"{self.name} of {counted(state.weights.shape[0], 'drop')}") as told:
            return self.fresh(state, told)


class Told:
    """Says that something takes long, with a bar on a terminal.

    :param what: is computed
    """

    def __init__(self, what: str):
        self.what, self.begin = what, time.monotonic()
        self.bar: Progress | None = None

    def __enter__(self) -> Told:
        return self

    def __call__(self, done: int, total: int) -> None:
        """Move the bar, which appears after some seconds."""
        if time.monotonic() - self.begin < PATIENCE:
            return
        if self.bar is None:
            # a decision imports this file, and need not wait for rich
            from rich.console import Console
            from rich.progress import Progress

            notice_once(f"computing {self.what}, once: it is kept in {cache_directory()}")
            self.bar = Progress(
                console=Console(stderr=True), transient=True, disable=not Console(stderr=True).is_terminal
            )
            self.bar.start()
            self.task = self.bar.add_task(self.what, total=total)
        self.bar.update(self.task, completed=done)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()


def reference_policies(objective: Objective | None = None, antenna_power: float | None = None) -> dict[str, Policy]:
    """Converged WMMSE, linear precoders at full power, random decisions, by name.

    ``wmmse`` is the local optimum that RZF leads to, ``best_known`` the best of 12 starts, and ``wmmse_200`` what WMMSE
    reaches in 200 iterations: on channels that are known inexactly, more of them can be worse. Under another objective,
    or with limits on antennas, ``wmmse`` is 200 iterations of its kind, and there are no others.

    :param objective: that WMMSE maximises; None: the weighted sum rate
    :param antenna_power: limit of every antenna, in units of 1 / N_t; None: there is none
    """
    objective = Objective() if objective is None else objective

    def at_full_power(precoder: Callable[[ChannelState], Tensor]) -> Policy:
        return lambda state: (
            within_antenna_power(precoder(state.estimate), antenna_power),
            full_uplink_power(state.estimate),
        )

    def random(state: CellState) -> Decision:
        generator = torch.Generator(state.weights.device).manual_seed(stream("random"))
        precoder, power = random_decision(state.estimate, generator)
        return within_antenna_power(precoder, antenna_power), power

    searched: dict[str, Policy] = {
        "best_known": Search("best_known", STARTS, timed=False, most=MOST),
        "wmmse": Search("wmmse", 1),
        "wmmse_200": lambda state: wmmse(state.estimate, ITERATIONS, weights=state.weights),
    }
    if antenna_power is not None or not objective.plain:
        own = objective, ITERATIONS, antenna_power
        searched = {"wmmse": lambda state: fair_wmmse(state.estimate, state.weights, *own)}
    return {
        **searched,
        "rzf": at_full_power(rzf),
        "zf": at_full_power(zf),
        "mrt": at_full_power(mrt),
        "random": random,
    }

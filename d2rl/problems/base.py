"""What a radio problem is to the algorithm: four nouns and one protocol.

B states, M actions of each, K entities: links, users, surface elements, or 1 for a plain vector.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from d2rl.common.errors import CheckpointError
from d2rl.common.tensor_struct import TensorStruct

logger = logging.getLogger(__name__)
Drawing = tuple[Callable[[Any], None], str, str]  # what draws on axes, what that shows in words, how to read it
Decision = Any  # what a problem makes of an action: tensors of batch B M, such as precoders and powers


@dataclass(frozen=True)
class Layout:
    """K entities of C kinds, kind by kind, and the numbers of each in a flat action.

    :param counts: [C], entities of each kind
    :param numbers: [C], numbers of an action for one entity of each kind
    """

    counts: tuple[int, ...]
    numbers: tuple[int, ...]

    @property
    def entities(self) -> int:
        """K."""
        return sum(self.counts)

    @property
    def size(self) -> int:
        """Length of a flat action."""
        return sum(count * numbers for count, numbers in zip(self.counts, self.numbers, strict=True))

    @property
    def width(self) -> int:
        """Numbers of an entity when all are given as many."""
        return max(self.numbers)

    def kinds(self, device: torch.device) -> Tensor:
        """Kind of every entity, [K, 1], int64; made without waiting for the device."""
        index = torch.arange(self.entities, device=device)
        kinds = torch.zeros_like(index)
        for boundary in list(accumulate(self.counts))[:-1]:
            kinds = kinds + (index >= boundary)
        return kinds.unsqueeze(-1)

    def split(self, action: Tensor) -> list[Tensor]:
        """One [..., count, numbers] for each kind, from flat actions [..., size]."""
        sizes = [count * numbers for count, numbers in zip(self.counts, self.numbers, strict=True)]
        parts = zip(action.split(sizes, dim=-1), self.counts, self.numbers, strict=True)
        return [part.unflatten(-1, (count, numbers)) for part, count, numbers in parts]

    def to_entities(self, action: Tensor) -> Tensor:
        """[..., K, width] from flat actions [..., size]; entities with fewer numbers are padded with zeros."""
        if min(self.numbers) == self.width:
            return action.unflatten(-1, (-1, self.width))
        return torch.cat([F.pad(part, (0, self.width - part.shape[-1])) for part in self.split(action)], dim=-2)

    def to_flat(self, numbers: Tensor) -> Tensor:
        """Flat actions [..., size]; the inverse of :meth:`to_entities`.

        :param numbers: [..., K, width]
        """
        if min(self.numbers) == self.width:
            return numbers.flatten(-2)
        parts = zip(numbers.split(self.counts, dim=-2), self.numbers, strict=True)
        return torch.cat([part[..., :own].flatten(-2) for part, own in parts if part.shape[-2]], dim=-1)


@dataclass(frozen=True)
class Sizes:
    """What networks are built for.

    :param nodes: features of an entity
    :param edges: features of a pair; 0: entities have no edges
    :param view: numbers that :meth:`Problem.view` tells each entity of an action
    :param flat: numbers of :meth:`Problem.flat`
    """

    nodes: int
    edges: int
    view: int
    flat: int


@dataclass(frozen=True)
class Observation(TensorStruct):
    """B states as the agent knows them.

    :param nodes: [B, K, F]
    :param edges: [B, K, K, E]; ``edges[b, i, j]`` tells what entity j does to entity i
    :param weights: [B, K], priority of every entity in the objective
    :param baseline: [B, K], utility that a simple decision reaches, in the unit of the utility
    :param known: what :meth:`Problem.decode` and :meth:`Problem.view` need beside; opaque to the algorithm
    :param layout: of the action
    """

    nodes: Tensor
    edges: Tensor
    weights: Tensor
    baseline: Tensor
    known: Any
    layout: Layout

    def reweighted(self, weights: Tensor, feature: Callable[[Tensor], Tensor]) -> Observation:
        """The same states under N versions of their priorities, side by side: batch B N.

        :param weights: [B, N, K]
        :param feature: the last one of nodes, [B N, K, 1], from priorities [B N, K]
        """
        several, weights = self.repeat(weights.shape[1]), weights.flatten(0, 1)
        nodes = torch.cat([several.nodes[..., :-1], feature(weights)], dim=-1)
        return replace(several, weights=weights, nodes=nodes)


@dataclass(frozen=True)
class Transition(TensorStruct):
    """What a replay holds of B states.

    :param observation: of the state
    :param action: [B, M, size] in [-1, 1], M actions for each state
    :param view: [B, M, K, V], what the critic sees of them
    :param utility: [B, M, K], measured
    :param generated: [B, M, K or 1], reward that RENPNN generated, in units of the agent's reward; None without it
    :param following: observation of the state that the first action led to; None where gamma = 0
    :param terminated: [B] bool, the task ended there and nothing follows; None where gamma = 0. An episode that was
        only cut (truncated) goes on in ``following``, from which its value is bootstrapped.
    :param discount: [B], of the value of ``following``, which may lie several slots ahead; None: gamma
    :param measured: [B] bool, False where nobody measured the utility, which is 0 there; None: it was everywhere
    """

    observation: Observation
    action: Tensor
    view: Tensor
    utility: Tensor
    generated: Tensor | None = None
    following: Observation | None = None
    terminated: Tensor | None = None
    discount: Tensor | None = None
    measured: Tensor | None = None


State = TypeVar("State", bound=TensorStruct)


@dataclass(frozen=True)
class Step(Generic[State]):
    """What one slot brings.

    :param utility: [B, M, K], of every decision
    :param following: the states that the decisions led to, at the end of an episode its last one
    :param state: the states that the world goes on from; new ones where an episode ended
    :param truncated: [B] bool, the episode was cut there
    :param terminated: [B] bool, the task ended there
    :param record: what else happened, for evaluations over episodes; see :class:`Episodic`
    :param reported: [B], slots that the utility is of, 0 where it is to come in a later report; None: 1
    """

    utility: Tensor
    following: State
    state: State
    truncated: Tensor
    terminated: Tensor
    record: Any = None
    reported: Tensor | None = None


class Problem(Protocol[State]):
    """A world and what an agent may do in it; knows nothing of learning.

    Optional parts are :class:`Measurable`, :class:`Benchmarked`, :class:`Exportable`, :class:`Generative`,
    :class:`Prioritised`, :class:`Remembering`, and methods that only tests ask for: ``feasible(decision)``, [B M] bool,
    whether all limits are kept; ``permuted(state, orders)``, the same states with the entities of each kind in another
    order; and of a problem that tells sums alone (``tells_sums``, every ``report_slots`` slots), ``telling_all()``, the
    same world that tells of every entity in every slot.
    ``check_problem`` of :mod:`d2rl.testing` holds a problem against all that is said here.

    ``name`` stands in messages; ``layout`` is that of every action; ``exogenous`` says that the next state does not
    depend on the decision, so that several decisions can be measured in one state.
    """

    name: str
    layout: Layout
    sizes: Sizes
    exogenous: bool

    def reset(self, batch: int, generator: torch.Generator) -> State:
        """B first states, on the device of the generator."""

    def step(self, state: State, decision: Decision, generator: torch.Generator) -> Step[State]:
        """One slot.

        :param decision: of B M actions, each state's M side by side; M is 1 unless the problem is exogenous
        """

    def observe(self, state: State) -> Observation:
        """What the agent knows of the states."""

    def decode(self, observation: Observation, action: Tensor) -> Decision:
        """The decision of actions [B, M, size]; keeps every limit for any numbers."""

    def view(self, observation: Observation, action: Tensor, decision: Decision | None = None) -> Tensor:
        """What a critic sees of actions, [B, M, K, V]; differentiable in the action.

        :param decision: of :meth:`decode`, where it is at hand
        """

    def flat(self, observation: Observation) -> Tensor:
        """The observation as one vector for a plain network, [B, flat]."""


@runtime_checkable
class Measurable(Protocol):
    """A problem whose utility has a closed form: candidates can be compared without trying them."""

    def measure(self, state: Any, decision: Decision) -> Tensor:
        """Utility [B, M, K] that decisions really have in a state."""

    def utility(self, observation: Observation, decision: Decision) -> Tensor:
        """Utility [B, M, K] of decisions on what is known; differentiable in the decision."""


@runtime_checkable
class Benchmarked(Measurable, Protocol):
    """A measurable problem with references: policies are compared on frozen states.

    ``metric`` names what is to be maximised among :meth:`metrics`, in ``unit``; ``shown`` those of them that a table
    has room for beside it; ``anchors`` the references at which the gap closed is 0 and 1. Where some of ``shown`` are
    of another unit, a dictionary ``units`` tells it.
    """

    config: Any
    metric: str
    unit: str
    shown: tuple[str, ...]
    anchors: tuple[str, str]

    def frozen(self, drops: int, seed: int, device: str | torch.device) -> Any:
        """Evaluation states, the same for every policy, with their priorities [B, K] as ``weights``."""

    def references(self) -> dict[str, Callable[[Any], Decision]]:
        """Policies without learning, state -> decision, by name."""

    def bound(self, state: Any) -> Tensor:
        """What no policy can pass, [B], in the unit of the metric."""

    def metrics(self, utility: Tensor, weights: Tensor, decision: Decision) -> dict[str, float]:
        """Summary of what was reached, from utilities [B, K], priorities [B, K] and the B decisions."""


@runtime_checkable
class Episodic(Protocol):
    """A problem that is judged over episodes of one length, with the same random numbers for every policy.

    ``slots`` is their length; ``shown`` names those of the :meth:`summary` that a table has room for.
    """

    slots: int
    shown: tuple[str, ...]

    def endless(self) -> Any:
        """The problem to be judged in, whose episodes never end."""

    def summary(self, total: Any) -> dict[str, float]:
        """Metrics of what B episodes brought.

        :param total: the records of all slots (:attr:`Step.record`), added by their method ``plus``
        """

    def course(self, record: Any) -> Tensor:
        """A number of one slot's record, whose course over the episode is shown."""

    def pictures(self, outcomes: Mapping[str, Any]) -> list[Drawing]:
        """What report.html shows of the episodes of each policy (``Episodes`` of :mod:`d2rl.evaluation.episodes`)."""


@runtime_checkable
class Exportable(Protocol):
    """A problem whose decisions can leave torch: what is known as tensors by name in, a decision of tensors out.

    The tensors may be a :class:`ComplexPair` each, for runtimes without complex numbers; ``outputs`` names the parts
    of a decision.
    """

    outputs: tuple[str, ...]

    def examples(self, count: int, seed: int) -> Any:
        """States that an exported file is compared on, on the CPU."""

    def known(self, state: Any) -> dict[str, Tensor]:
        """All that :meth:`Problem.observe` reads of a state, in order."""

    def observe_known(self, known: Mapping[str, Any]) -> Observation:
        """As :meth:`Problem.observe`."""


@dataclass(frozen=True)
class Rows(TensorStruct):
    """Rows of one kind in B states, which SENPNN makes anew.

    :param numbers: [B, n, d], real, of about unit variance
    :param level: [B, n, 1], of order 1, what else is known of a row and stays, such as the log of its mean gain
    :param place: [B, n, c], of order 1, where a row belongs; None where that is unknown
    :param circular: whether a row is one of complex numbers, pairs, whose common phase is arbitrary
    """

    numbers: Tensor
    level: Tensor
    place: Tensor | None = None
    circular: bool = False


@runtime_checkable
class Generative(Protocol[State]):
    """A problem whose states can be diffused (SENPNN); whitening is its own affair.

    ``exogenous_rows`` says that no decision moves what :meth:`rows` shows of a state, such as channels: a state with
    other rows is then one in which a decision can be tried, and what follows it goes on from the real ones. Where
    decisions move rows, too, no state can be replaced, and ``state`` is an :class:`Observation` below. A method
    ``notice_placeless()``, if there is one, tells the person that SENPNN goes without places.
    """

    exogenous_rows: bool

    def row_sizes(self) -> dict[str, int]:
        """Length of a row of each kind, d."""

    def place_sizes(self) -> dict[str, int]:
        """Numbers c that tell where rows of a kind belong; kinds whose places are unknown are left out."""

    def rows(self, state: State) -> dict[str, Rows]:
        """What can be diffused, by kind."""

    def with_rows(self, state: State, numbers: Mapping[str, Tensor], generator: torch.Generator) -> State:
        """The states with other rows; what else they hold stays.

        :param numbers: [B, n, d] of each kind
        :param generator: of what is drawn again, such as the error of a channel estimate
        """

    def held_out(self, count: int, device: torch.device) -> tuple[State, State | None]:
        """States that SENPNN never trains on, and the fixed set that it trains on; None where every slot is new."""

    def plausibility(self, real: State, made: State, generator: torch.Generator) -> dict[str, dict[str, Any]]:
        """How far made states are from real ones: metric -> ``value``, and ``within`` what chance gives."""


@runtime_checkable
class Prioritised(Protocol):
    """A problem whose observations can be asked under other priorities."""

    def with_priorities(self, observation: Observation, weights: Tensor) -> Observation:
        """The same states under N priorities each, [B, N, K], side by side: batch B N."""


class Simulation(Generic[State]):
    """A problem under way: B states, moved by their own random numbers.

    :param problem: what happens
    :param batch: B
    :param seed: of its random numbers
    :param device: where everything lives
    :param branch: name of another stream of them, for one of several simulations of this seed
    """

    state: State

    def __init__(
        self,
        problem: Problem[State],
        batch: int,
        seed: int,
        device: str | torch.device = "cpu",
        branch: str = "",
    ):
        self.problem, self.batch = problem, batch
        self.generator = torch.Generator(device).manual_seed(stream("/".join(filter(None, [f"env/{seed}", branch]))))
        self.state = problem.reset(batch, self.generator)

    @property
    def device(self) -> torch.device:
        """Where everything lives."""
        return self.generator.device

    def step(self, decision: Decision) -> Step[State]:
        """One slot of all states."""
        step = self.problem.step(self.state, decision, self.generator)
        self.state = step.state
        return step

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly from here, as plain containers."""
        saved: dict[str, Any] = {"generator": self.generator.get_state()}
        saved |= {"state": self.state.tensors(), "values": self.state.values()}
        if isinstance(self.problem, Remembering):
            saved["problem"] = self.problem.state_dict()
        return saved

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from a saved simulation of the same problem.

        :raises CheckpointError: it holds other states
        """
        self.generator.set_state(saved["generator"].cpu())
        if isinstance(self.problem, Remembering):
            self.problem.load_state_dict(saved.get("problem", {}))  # a problem may have had nothing to keep then
        if isinstance(self.problem, Simulated):
            logger.warning(f"{self.problem.simulator} cannot be stored: the run goes on with new episodes")
            self.state = self.problem.reset(self.batch, self.generator)
            return
        tensors = {name: tensor.to(self.device) for name, tensor in saved["state"].items()}
        if tensors.keys() != self.state.tensors().keys():
            raise CheckpointError(f"the checkpoint's states are none of problem={self.problem.name}; train again.")
        self.state = self.state.with_tensors(tensors).with_values(saved["values"])


@runtime_checkable
class Simulated(Problem[State], Protocol[State]):
    """A problem whose states live in a simulator that no file can hold; a run that is resumed begins new episodes.

    ``simulator`` names it in messages.
    """

    simulator: str


@runtime_checkable
class Remembering(Protocol):
    """A problem with something to keep beside its states, such as a fixed set of stored ones."""

    def state_dict(self) -> dict[str, Any]:
        """As plain containers."""

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue."""


def stream(name: str) -> int:
    """A seed of its own for every named stream of random numbers."""
    return zlib.crc32(name.encode())

"""The nouns between problem and algorithm: layouts of actions, and simulations under way."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from d2rl.common.errors import CheckpointError
from d2rl.common.tensor_struct import TensorStruct
from d2rl.problems.base import Layout, Simulation, Sizes, Step, stream
from d2rl.wireless.heads import BeamformingHead, StructuredHead

CPU = torch.device("cpu")
HEADS = [StructuredHead().layout, BeamformingHead(3).layout, BeamformingHead(1).layout]
LAYOUTS = [
    *(Layout((5, 2), (layout.down, layout.up)) for layout in HEADS),
    Layout((5, 2), (1, 4)),
    Layout((1,), (3,)),
    Layout((4,), (1,)),
    Layout((3, 1, 2), (2, 2, 2)),
    Layout((2, 4, 1), (1, 5, 3)),
]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------ layouts


def test_a_layout_adds_up():
    layout = Layout((2, 4, 1), (1, 5, 3))
    assert (layout.entities, layout.size, layout.width) == (7, 2 * 1 + 4 * 5 + 1 * 3, 5)


@pytest.mark.parametrize(
    ("counts", "kinds"),
    [((3,), [0, 0, 0]), ((2, 1), [0, 0, 1]), ((1, 3), [0, 1, 1, 1]), ((2, 1, 3), [0, 0, 1, 2, 2, 2])],
    ids=str,
)
def test_kinds_mark_the_entities_kind_by_kind(counts, kinds):
    found = Layout(counts, (2,) * len(counts)).kinds(CPU)
    assert found.shape == (len(kinds), 1)
    assert found.dtype == torch.int64
    assert found.flatten().tolist() == kinds


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("lead", [(4,), (4, 3)], ids=["action", "candidates"])
def test_flat_actions_come_back_from_entities(layout, lead):
    flat = normal(*lead, layout.size)
    entities = layout.to_entities(flat)
    assert entities.shape == (*lead, layout.entities, layout.width)
    assert torch.equal(layout.to_flat(entities), flat)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_entities_come_back_from_flat_actions_with_padding_zero(layout):
    entities = normal(4, 3, layout.entities, layout.width)
    again = layout.to_entities(layout.to_flat(entities))
    for i, kind in enumerate(layout.kinds(CPU).flatten().tolist()):
        own = layout.numbers[kind]
        assert torch.equal(again[..., i, :own], entities[..., i, :own])
        assert (again[..., i, own:] == 0).all()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_flat_action_lists_the_entities_of_each_kind_in_turn(layout):
    flat, position = torch.arange(layout.size), 0
    entities, parts = layout.to_entities(flat).tolist(), layout.split(flat)
    assert len(parts) == len(layout.counts)
    for kind, part in enumerate(parts):
        assert part.shape == (layout.counts[kind], layout.numbers[kind])
        for numbers in part.tolist():
            assert numbers == list(range(position, position + layout.numbers[kind]))
            position += layout.numbers[kind]
    rows = [row for part in parts for row in part.tolist()]
    assert [entity[: len(row)] for entity, row in zip(entities, rows, strict=True)] == rows


def test_an_action_that_is_not_of_the_layout_is_refused():
    with pytest.raises(RuntimeError):
        Layout((2, 4, 1), (1, 5, 3)).split(torch.zeros(24))


# ------------------------------------------------------------------ simulations


@dataclass(frozen=True)
class Walk(TensorStruct):
    """:param place: [B, 1]      :param slot: since the reset"""

    place: Tensor
    slot: int = 0


class RandomWalk:
    """Each step adds the decision and a random number; what was drawn in all is kept beside the states."""

    name = "walk"
    layout = Layout((1,), (1,))
    sizes = Sizes(nodes=1, edges=0, view=1, flat=1)
    exogenous = False

    def __init__(self):
        self.drawn = 0.0

    def reset(self, batch: int, generator: torch.Generator) -> Walk:
        return Walk(torch.randn(batch, 1, generator=generator))

    def step(self, state: Walk, decision: Tensor, generator: torch.Generator) -> Step[Walk]:
        noise = torch.randn(state.place.shape, generator=generator)
        self.drawn += float(noise.sum())
        following = Walk(state.place + decision + noise, state.slot + 1)
        never = torch.zeros(state.batch, dtype=torch.bool)
        return Step(following.place.unsqueeze(1), following, following, never, never)


class RememberingWalk(RandomWalk):
    def state_dict(self) -> dict[str, float]:
        return {"drawn": self.drawn}

    def load_state_dict(self, saved: dict[str, float]) -> None:
        self.drawn = saved["drawn"]


def walked(simulation: Simulation, steps: int) -> list[Tensor]:
    return [simulation.step(torch.full((3, 1), 0.5)).utility for _ in range(steps)]


def test_a_simulation_is_that_of_its_seed_and_branch():
    first, again = (walked(Simulation(RandomWalk(), 3, seed=1), 4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (Simulation(RandomWalk(), 3, seed=2), Simulation(RandomWalk(), 3, seed=1, branch="load 1")):
        assert all(not torch.equal(a, b) for a, b in zip(first, walked(other, 4), strict=True))


def test_the_generator_of_a_simulation_is_no_other_stream():
    names = ["env/0", "env/1", "agent/0", "evaluation/0", "env/0/load 1"]
    assert len({stream(name) for name in names}) == len(names)


@pytest.mark.parametrize("problem", [RandomWalk, RememberingWalk])
def test_a_saved_simulation_goes_on_exactly(problem, tmp_path):
    simulation = Simulation(problem(), 3, seed=0)
    walked(simulation, 5)
    torch.save(simulation.state_dict(), tmp_path / "walk.pt")
    again = Simulation(problem(), 3, seed=7)
    again.load_state_dict(torch.load(tmp_path / "walk.pt", weights_only=True))
    assert again.state.slot == simulation.state.slot == 5
    assert torch.equal(again.state.place, simulation.state.place)
    assert (again.problem.drawn == simulation.problem.drawn) == (problem is RememberingWalk)
    assert all(torch.equal(a, b) for a, b in zip(walked(simulation, 3), walked(again, 3), strict=True))
    assert again.state.slot == 8


def test_what_was_saved_of_a_simulation_does_not_change_afterwards():
    simulation = Simulation(RandomWalk(), 3, seed=0)
    saved = simulation.state_dict()
    first = walked(simulation, 2)
    simulation.load_state_dict(saved)
    assert all(torch.equal(a, b) for a, b in zip(first, walked(simulation, 2), strict=True))


def test_states_of_another_problem_are_refused():
    simulation = Simulation(RandomWalk(), 3, seed=0)
    saved = simulation.state_dict()
    saved["state"] = {"queue": torch.zeros(3, 1)}
    with pytest.raises(CheckpointError, match="problem=walk"):
        simulation.load_state_dict(saved)

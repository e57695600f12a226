"""Conformance of problems."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2rl.common.tensor_struct import TensorStruct
from d2rl.problems.base import (
    Benchmarked,
    Episodic,
    Generative,
    Measurable,
    Observation,
    Prioritised,
    Problem,
    Simulated,
    Simulation,
    Step,
)
from d2rl.testing.expectations import expect, finite, generator, same, written_and_read
from d2rl.testing.reports import check_reports


def check_problem(problem: Problem, batch: int = 3, slots: int = 3) -> None:
    """Hold a problem against all that :mod:`d2rl.problems.base` says of it.

    :param batch: B, states side by side
    :param slots: length of the trial
    :raises AssertionError: names what does not hold
    """
    state = problem.reset(batch, generator(0))
    same(state, problem.reset(batch, generator(0)), "reset() with the same generator")
    seen = problem.observe(state)
    _check_observation(problem, seen, batch)
    _check_actions(problem, seen)
    for _ in range(slots):
        step = _check_step(problem, state)
        state = step.state
    _check_continuation(problem, batch)
    if isinstance(problem, Measurable):
        _check_measurable(problem, state)
    if isinstance(problem, Benchmarked):
        _check_references(problem, batch)
    if isinstance(problem, Episodic):
        _check_episodes(problem, batch)
    if isinstance(problem, Generative):
        expect(problem.exogenous_rows or not problem.exogenous, "states are exogenous, and exogenous_rows is False")
        _check_rows(problem, state if problem.exogenous_rows else problem.observe(state))
        if problem.exogenous_rows:
            _check_exogenous_rows(problem, state)
    if isinstance(problem, Prioritised):
        _check_priorities(problem, seen)
    if hasattr(problem, "permuted"):
        _check_order(problem, state)
    if getattr(problem, "tells_sums", False):
        check_reports(problem, batch)


def _check_observation(problem: Problem, seen: Observation, batch: int) -> None:
    entities, sizes = problem.layout.entities, problem.sizes
    shapes = {
        "nodes": (batch, entities, sizes.nodes),
        "edges": (batch, entities, entities, sizes.edges),
        "weights": (batch, entities),
        "baseline": (batch, entities),
    }
    for name, shape in shapes.items():
        found = getattr(seen, name)
        expect(tuple(found.shape) == shape, f"observation.{name} is {tuple(found.shape)}, layout and sizes say {shape}")
        finite(found, f"observation.{name}")
    expect(seen.layout == problem.layout, "observation.layout is not the problem's")
    expect(bool((seen.weights >= 0).all()), "observation.weights holds negative priorities")
    flat = problem.flat(seen)
    expect(tuple(flat.shape) == (batch, sizes.flat), f"flat() is {tuple(flat.shape)}, sizes say {(batch, sizes.flat)}")
    finite(flat, "flat()")
    one = problem.observe(problem.reset(batch, generator(0))[:1])
    for name in shapes:
        close = torch.allclose(getattr(one, name), getattr(seen, name)[:1], rtol=1e-3, atol=1e-4)
        expect(close, f"observation.{name} of a state depends on the other states of the batch")


def _check_actions(problem: Problem, seen: Observation) -> None:
    size, batch = problem.layout.size, seen.batch
    count = 2 if problem.exogenous else 1
    trials = {
        "random": torch.rand(batch, count, size, generator=generator(2)) * 2 - 1,
        "lowest": torch.full((batch, count, size), -1.0),
        "highest": torch.full((batch, count, size), 1.0),
        "middle": torch.zeros(batch, count, size),
        "far outside": torch.full((batch, count, size), 1e6),
    }
    for name, action in trials.items():
        decision = problem.decode(seen, action)
        for part in _tensors(decision):
            expect(len(part) == batch * count, f"decode() of {name} actions has batch {len(part)}, not B M")
            finite(part, f"decode() of {name} actions")
        if hasattr(problem, "feasible"):
            expect(bool(problem.feasible(decision).all()), f"decode() of {name} actions breaks a limit")
        view = problem.view(seen, action.clamp(-1, 1))
        shape = (batch, count, problem.layout.entities, problem.sizes.view)
        expect(tuple(view.shape) == shape, f"view() is {tuple(view.shape)}, layout and sizes say {shape}")
        finite(view, f"view() of {name} actions")
    action = trials["random"].requires_grad_()
    problem.view(seen, action).sum().backward()
    expect(action.grad is not None, "view() is not differentiable in the action")
    assert action.grad is not None
    finite(action.grad, "the gradient of view()")


def _check_step(problem: Problem, state: Any) -> Step:
    count = 2 if problem.exogenous else 1
    action = torch.rand(state.batch, count, problem.layout.size, generator=generator(3)) * 2 - 1
    decision = problem.decode(problem.observe(state), action)
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    step = problem.step(state, decision, generator(4))
    shape = (state.batch, count, problem.layout.entities)
    expect(tuple(step.utility.shape) == shape, f"step().utility is {tuple(step.utility.shape)}, not {shape}")
    finite(step.utility, "step().utility")
    for name in ("truncated", "terminated"):
        ends = getattr(step, name)
        expect(ends.dtype == torch.bool and ends.shape == (state.batch,), f"step().{name} must be [B] bool")
    untouched = all(torch.equal(before[name], tensor) for name, tensor in state.tensors().items())
    expect(untouched, "step() writes into the state that it was given")
    if problem.exogenous:
        same(step.state, problem.step(state, decision, generator(4)).state, "step() with the same generator")
        other = problem.decode(problem.observe(state), -action)
        same(step.state, problem.step(state, other, generator(4)).state, "exogenous, but step() with other decisions")
    return step


def _check_continuation(problem: Problem, batch: int) -> None:
    if isinstance(problem, Simulated):
        return  # a world that cannot be copied begins new episodes
    action = torch.zeros(batch, 1, problem.layout.size)
    first, second = (Simulation(problem, batch, seed) for seed in (5, 6))
    second.load_state_dict(written_and_read(first.state_dict()))
    for one in (first, second):
        for _ in range(2):
            one.step(problem.decode(problem.observe(one.state), action))
    same(first.state, second.state, "a simulation saved and loaded")


def _check_measurable(problem: Any, state: Any) -> None:
    seen = problem.observe(state)
    action = (torch.rand(state.batch, 2, problem.layout.size, generator=generator(7)) - 0.5).requires_grad_()
    utility = problem.utility(seen, problem.decode(seen, action))
    shape = (state.batch, 2, problem.layout.entities)
    expect(tuple(utility.shape) == shape, f"utility() is {tuple(utility.shape)}, not {shape}")
    utility.sum().backward()
    expect(action.grad is not None and bool(action.grad.isfinite().all()), "utility() has no finite gradient")
    measured = problem.measure(state, problem.decode(seen, action.detach()))
    expect(tuple(measured.shape) == shape, f"measure() is {tuple(measured.shape)}, not {shape}")
    finite(measured, "measure()")


def _check_references(problem: Any, batch: int) -> None:
    state = problem.frozen(batch, 0, "cpu")
    same(state, problem.frozen(batch, 0, "cpu"), "frozen() with the same seed")
    references, bound = problem.references(), problem.bound(state)
    for name in problem.anchors:
        expect(name in references, f"anchors names {name}, references() has {', '.join(references)}")
    for name, reference in references.items():
        decision = reference(state)
        if hasattr(problem, "feasible"):
            expect(bool(problem.feasible(decision).all()), f"reference {name} breaks a limit")
        utility = problem.measure(state, decision).squeeze(1)
        weights = problem.observe(state).weights
        reached = (utility * weights).sum(-1)
        expect(bool((reached <= bound * (1 + 1e-4) + 1e-4).all()), f"reference {name} passes the bound")
        expect(problem.metric in problem.metrics(utility, weights, decision), f"metrics() has no {problem.metric}")


def _check_episodes(problem: Any, batch: int) -> None:
    world = Simulation(problem.endless(), batch, 11)
    total = None
    for _ in range(3):
        action = torch.zeros(batch, 1, problem.layout.size)
        step = world.step(problem.decode(problem.observe(world.state), action))
        expect(not bool((step.truncated | step.terminated).any()), "endless() has episodes that end")
        total = step.record if total is None else total.plus(step.record)
    missing = [name for name in problem.shown if name not in problem.summary(total)]
    expect(not missing, f"shown names {', '.join(missing)}, which summary() does not give")


def _check_rows(problem: Any, state: Any) -> None:
    rows, sizes, places = problem.rows(state), problem.row_sizes(), problem.place_sizes()
    found = {name: one.numbers.shape[-1] for name, one in rows.items()}
    expect(found == sizes, f"rows() have lengths {found}, row_sizes() says {sizes}")
    told = {name: one.place.shape[-1] for name, one in rows.items() if one.place is not None}
    expect(told == places, f"rows() have places of {told} numbers, place_sizes() says {places}")
    again = problem.rows(problem.with_rows(state, {name: one.numbers for name, one in rows.items()}, generator(8)))
    for name, one in rows.items():
        close = torch.allclose(again[name].numbers, one.numbers, rtol=1e-3, atol=1e-3)
        expect(close, f"with_rows() loses rows of {name}")


def _check_exogenous_rows(problem: Any, state: Any) -> None:
    """No decision moves rows, and what follows a synthetic state goes on from the real one."""
    seen, generators = problem.observe(state), [generator(12) for _ in range(3)]
    action = torch.rand(state.batch, 1, problem.layout.size, generator=generator(13)) * 2 - 1
    numbers = {name: one.numbers.flip(0) for name, one in problem.rows(state).items()}
    made = problem.with_rows(state, numbers, generator(14))
    trials = [(state, problem.decode(seen, action)), (state, problem.decode(seen, -action))]
    trials.append((made, problem.decode(problem.observe(made), action)))
    first, decided, synthetic = (
        problem.rows(problem.step(*trial, own).state) for trial, own in zip(trials, generators, strict=True)
    )
    for name, one in first.items():
        same(one, decided[name], f"exogenous_rows, but rows of {name} after other decisions")
        same(one, synthetic[name], f"rows of {name} after a synthetic state, which were real ones,")


def _check_priorities(problem: Any, seen: Observation) -> None:
    weights = torch.rand(seen.batch, 2, problem.layout.entities, generator=generator(9)) + 0.5
    asked = problem.with_priorities(seen, weights)
    expect(asked.batch == 2 * seen.batch, "with_priorities() of N priorities must have batch B N")
    expect(torch.equal(asked.weights, weights.flatten(0, 1)), "with_priorities() does not carry the priorities")


def _check_order(problem: Any, state: Any) -> None:
    """Entities in another order are the same entities in another order."""
    orders = [torch.randperm(count, generator=generator(10)) for count in problem.layout.counts]
    starts = [sum(problem.layout.counts[:kind]) for kind in range(len(orders))]
    order = torch.cat([start + own for start, own in zip(starts, orders, strict=True)])
    seen, moved = problem.observe(state), problem.observe(problem.permuted(state, orders))
    pairs = {
        "nodes": (seen.nodes[:, order], moved.nodes),
        "edges": (seen.edges[:, order][:, :, order], moved.edges),
        "baseline": (seen.baseline[:, order], moved.baseline),
    }
    for name, (expected, found) in pairs.items():
        close = torch.allclose(expected, found, rtol=1e-3, atol=1e-3)
        expect(close, f"observation.{name} depends on the order of entities")


def _tensors(decision: Any) -> list[Tensor]:
    if isinstance(decision, Tensor):
        return [decision]
    if isinstance(decision, TensorStruct):
        return list(decision.tensors().values())
    return [tensor for part in decision for tensor in _tensors(part)]

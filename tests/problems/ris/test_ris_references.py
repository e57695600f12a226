"""References: what never falls, what nothing passes."""

from __future__ import annotations

import pytest
import torch

from d2rl.problems.ris import references
from d2rl.problems.ris.channels import SurfaceChannels, user_rates
from d2rl.problems.ris.references import (
    align,
    alternate,
    gradient,
    random_phases,
    rate_bound,
    turn_elements,
    with_rzf,
)
from d2rl.problems.ris.settings import RisConfig
from d2rl.problems.ris.simulator import SurfaceState, drop
from d2rl.wireless.link_rates import squared_magnitude

SMALL = {"elements": 6, "users": 3, "antennas": 4}


def states(count=8, seed=0, double=False, **settings):
    state = drop(RisConfig(**{**SMALL, **settings}), count, torch.Generator().manual_seed(seed))
    if not double:
        return state
    return SurfaceState(state.channels.map(lambda t: t.to(torch.complex128)), state.weights.double())


def weighted(channels, decision, weights):
    return (user_rates(channels, decision) * weights).sum(-1)


def test_alternating_optimisation_never_falls():
    state = states(double=True, priority_user=0.5)
    weights, decision = state.weights[:, :3], random_phases(state.channels)
    rates = [weighted(state.channels, decision, weights)]
    for _ in range(25):
        decision = alternate(state.channels, decision, weights, 1)
        rates.append(weighted(state.channels, decision, weights))
    steps = torch.stack(rates).diff(dim=0)
    assert bool((steps > -1e-9).all())
    assert float(steps.sum(0).mean()) > 0.5


def test_turning_elements_alone_never_lowers_the_rate_and_keeps_the_beams():
    state = states(double=True)
    weights = state.weights[:, :3]
    reflection, precoder = random_phases(state.channels)
    before = weighted(state.channels, (reflection, precoder), weights)
    turned = turn_elements(state.channels, reflection, precoder, weights)
    assert torch.allclose(squared_magnitude(turned), torch.ones_like(before).unsqueeze(-1))
    after = weighted(state.channels, (turned, precoder), weights)
    assert bool((after > before - 1e-9).all())
    assert float((after - before).mean()) > 0.05


def test_one_element_is_turned_to_its_best_phase():
    """Turn after turn: each is the best for the receivers of the phase before."""
    state = states(double=True, elements=1, users=1)
    turned, precoder = random_phases(state.channels)
    for _ in range(300):
        turned = turn_elements(state.channels, turned, precoder, state.weights[:, :1])
    best = user_rates(state.channels, (turned, precoder))
    for angle in torch.linspace(0, 6.28, 50, dtype=torch.float64):
        other = torch.polar(torch.ones_like(angle), angle).expand_as(turned)
        assert bool((user_rates(state.channels, (other, precoder)) <= best + 1e-5).all())


def test_aligning_never_lowers_the_sum_of_gains(monkeypatch):
    channels = states(double=True).channels
    gains = []
    for steps in range(6):
        monkeypatch.setattr(references, "ALIGNING_STEPS", steps)
        gains.append(squared_magnitude(channels.effective(align(channels)).downlink).sum((-2, -1)))
    steps = torch.stack(gains).diff(dim=0)
    assert bool((steps > -1e-9 * gains[0]).all())
    assert bool((gains[-1] > 1.1 * gains[0]).any())


def test_references_rank_as_they_should():
    state = states(32, elements=16)
    weights = state.weights[:, :3]
    reached = [float(weighted(state.channels, random_phases(state.channels), weights).mean())]
    stepped = [gradient(state.channels, steps) for steps in (0, 3)]
    reached += [float(weighted(state.channels, decision, weights).mean()) for decision in stepped]
    start = with_rzf(state.channels, align(state.channels))
    reached.append(float(weighted(state.channels, alternate(state.channels, start, weights, 40), weights).mean()))
    assert reached == sorted(reached)
    assert reached[1] - reached[0] > 0.3
    assert reached[3] - reached[2] > 0.3


@pytest.mark.parametrize("settings", [{}, {"blocking": 0.0}, {"users": 1}, {"priority_user": 1.0}, {"antennas": 1}])
def test_nothing_passes_the_bound(settings):
    state = states(**settings)
    users = state.channels.direct.shape[1]
    weights = state.weights[:, :users]
    for start in (random_phases(state.channels), gradient(state.channels, 2)):
        decision = alternate(state.channels, start, weights, 20)
        assert bool((weighted(state.channels, decision, weights) <= rate_bound(state) * (1 + 1e-5)).all())


def test_one_user_behind_a_line_of_sight_reaches_the_bound():
    """Its direct path is lost, all paths to the surface are equally strong: all amplitudes add up."""
    state = states(users=1, surface_rician=100.0)
    c = state.channels
    hidden = SurfaceState(SurfaceChannels(torch.zeros_like(c.direct), c.feed, c.reflected), state.weights)
    decision = alternate(hidden.channels, gradient(hidden.channels, 5), state.weights[:, :1], 40)
    reached = user_rates(hidden.channels, decision)[:, 0]
    assert torch.allclose(reached, rate_bound(hidden), rtol=1e-3)


def test_random_phases_are_the_same_in_every_call():
    channels = states().channels
    assert torch.equal(random_phases(channels)[0], random_phases(channels)[0])
    assert not torch.equal(random_phases(channels)[0][0], random_phases(channels)[0][1])

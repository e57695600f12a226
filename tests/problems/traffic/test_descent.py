"""Descent of the drift and the plan for a known future: monotone, within the limits, closed forms."""

from __future__ import annotations

import pytest
import torch

from d2rl.problems.traffic.descent import descend, drift, drift_descent, foresight
from d2rl.problems.traffic.schedulers import max_weight
from d2rl.wireless import ChannelState, link_rates, random_decision
from d2rl.wireless.fading import complex_normal


@pytest.fixture
def queues(generator) -> torch.Tensor:
    """[16, 10], a third of them empty."""
    return 12 * torch.rand(16, 10, generator=generator) * (torch.rand(16, 10, generator=generator) < 0.7)


def feasible(decision) -> bool:
    precoder, power = decision
    within = precoder.abs().square().sum((-2, -1)) <= 1 + 1e-5
    return bool(within.all() and ((power >= 0) & (power <= 1)).all())


def test_more_steps_never_leave_more(channels, queues):
    def loss(decision) -> torch.Tensor:
        return drift(queues, link_rates(channels, *decision))

    start = max_weight(channels, queues)
    left = [loss(start)]
    for steps in (0, 10, 40):
        decision = descend(loss, start, steps)
        assert feasible(decision)
        assert (loss(decision) <= left[0] * (1 + 1e-5) + 1e-6).all()
        left.append(loss(decision))
    assert left[2].mean() < 0.98 * left[1].mean()
    assert left[3].mean() < left[2].mean()


def test_drift_descent_leaves_less_than_max_weight(channels, queues):
    start, decision = (drift_descent(channels, queues, steps) for steps in (0, 40))
    before, after = (drift(queues, link_rates(channels, *d)) for d in (start, decision))
    assert (after <= before * (1 + 1e-5) + 1e-6).all()
    assert after.mean() < 0.95 * drift(queues, link_rates(channels, *max_weight(channels, queues))).mean()


def test_drift_descent_keeps_empty_links_silent_and_works_in_inference_mode(channels, queues):
    with torch.inference_mode():
        precoder, power = drift_descent(channels.map(torch.clone), queues.clone(), 3)
    sent = torch.cat([precoder.abs().square().sum(-2), power], dim=-1)
    assert (sent[queues == 0] == 0).all()
    assert not precoder.requires_grad


def test_drift_of_two_orthogonal_users_is_that_of_the_best_split():
    """One power for two links that do not hear each other: the split is a scan of one number."""
    gains = torch.tensor([30.0, 8.0])
    channels = ChannelState(
        torch.diag(gains.sqrt()).to(torch.complex64)[None],
        torch.zeros(1, 1, 1, dtype=torch.complex64),
        torch.zeros(1, 1, 2, dtype=torch.complex64),
        torch.zeros(1, 1, 2, dtype=torch.complex64),
    )
    queues = torch.tensor([[3.0, 6.0, 0.0]])
    share = torch.linspace(0, 1, 10_001)
    rates = torch.log2(1 + gains * torch.stack([share, 1 - share], dim=-1))
    best = drift(queues[:, :2], rates).min()
    found = drift(queues, link_rates(channels, *drift_descent(channels, queues, 30)))
    torch.testing.assert_close(found[0], best, rtol=5e-3, atol=0)


def test_the_descent_follows_the_rates_that_it_is_given(channels):
    """Where a link can send 2 bit/s/Hz at most, more power for a long queue is lost on the others."""

    def capped(*decision) -> torch.Tensor:
        return link_rates(*decision).clamp_max(2)

    queues = torch.tensor([20.0, 2, 2, 2, 2, 2, 2, 2, 2, 2]).expand(16, -1)
    plain, aware = (drift_descent(channels, queues, 20, rates) for rates in (link_rates, capped))
    plain, aware = (drift(queues, capped(channels, *decision)).mean() for decision in (plain, aware))
    assert aware < plain - 0.5


@pytest.mark.parametrize("users", [(4, 0), (0, 3)], ids=["downlink", "uplink"])
def test_one_direction_alone(make_channels, users):
    channels = make_channels(4, downlink_users=users[0], uplink_users=users[1])
    queues = torch.linspace(20, 40, max(users)).expand(4, -1)
    start, decision = (drift_descent(channels, queues, steps) for steps in (0, 5))
    assert feasible(decision)
    left = [drift(queues, link_rates(channels, *d)) for d in (start, decision)]
    assert (left[1] <= left[0] * (1 + 1e-5)).all()
    (planned,) = foresight([channels], queues, [], steps=2)
    assert feasible(planned)


def test_a_cell_decides_alone(channels, queues):
    together = link_rates(channels, *drift_descent(channels, queues, 10))
    alone = link_rates(channels[3:5], *drift_descent(channels[3:5], queues[3:5], 10))
    torch.testing.assert_close(alone, together[3:5], atol=0.05, rtol=0.02)


def test_order_of_users_does_not_matter(channels, queues, generator):
    channels, queues = channels.double(), queues.double()
    down, up = [3, 0, 5, 1, 4, 2], [2, 3, 0, 1]
    links = [*down, *(6 + k for k in up)]
    precoder, power = random_decision(channels, generator)
    turned = channels.permute_users(down, up)
    found = descend(lambda d: drift(queues, link_rates(channels, *d)), (precoder, power), 10)
    other = descend(lambda d: drift(queues[:, links], link_rates(turned, *d)), (precoder[..., down], power[:, up]), 10)
    torch.testing.assert_close(other, (found[0][..., down], found[1][:, up]), atol=1e-5, rtol=0)


def waiting(channels, queues, arrivals, plan) -> torch.Tensor:
    """Backlogs after service, summed over the slots of a plan: [B]."""
    total = torch.zeros(len(queues))
    for slot, (state, decision) in enumerate(zip(channels, plan, strict=True)):
        left = (queues - link_rates(state, *decision)).clamp_min(0)
        total += left.sum(-1)
        queues = left + arrivals[slot] if slot < len(arrivals) else left
    return total


@pytest.fixture
def future(channels, queues, generator):
    """Channels of three slots and what arrives between them."""
    noise = [channels.map(lambda one: 0.3 * one.abs() * complex_normal(one.shape, generator, one.device))] * 2
    moved = [ChannelState(**{n: t + e.tensors()[n] for n, t in channels.tensors().items()}) for e in noise]
    return [channels, *moved], [4 * torch.rand(16, 10, generator=generator) for _ in range(2)]


def test_a_plan_leaves_less_waiting_than_what_it_starts_from(queues, future):
    states, arrivals = future
    generator = torch.Generator().manual_seed(5)
    start = [random_decision(state, generator) for state in states]
    start = [(0.99 * precoder, power) for precoder, power in start]
    plans = [foresight(states, queues, arrivals, start, steps) for steps in (0, 15)]
    assert all(feasible(decision) for decision in plans[1])
    none, some = (waiting(states, queues, arrivals, plan) for plan in plans)
    assert (some <= none * (1 + 1e-5) + 1e-4).all()
    assert some.mean() < 0.8 * none.mean()


def test_a_plan_of_one_slot_looks_at_this_slot_only(channels, queues):
    with torch.inference_mode():
        (decision,) = foresight([channels], queues, [], steps=5)
    left = (queues - link_rates(channels, *decision)).clamp_min(0).sum(-1)
    greedy = (queues - link_rates(channels, *drift_descent(channels, queues))).clamp_min(0).sum(-1)
    assert (left <= greedy * (1 + 1e-5) + 1e-4).all()

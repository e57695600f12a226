"""Schedulers: closed forms, limits, order of users, links with nothing to send."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from d2rl.problems.traffic.schedulers import (
    earliest_deadline,
    largest_weighted_delay,
    max_weight,
    proportional_fair,
    round_robin,
    weighted_wmmse,
)
from d2rl.wireless import ChannelState, link_rates

DEADLINES = torch.tensor([5.0, 10.0, math.inf, 20.0, 5.0, math.inf, 5.0, 10.0, 20.0, math.inf])
SCHEDULERS = {
    "round robin": lambda c, q, w, r: round_robin(c, q, 3, 2),
    "proportional fair": lambda c, q, w, r: proportional_fair(c, q, r, 5),
    "max weight": lambda c, q, w, r: max_weight(c, q, 5),
    "square root": lambda c, q, w, r: max_weight(c, q, 5, 0.5),
    "M-LWDF": lambda c, q, w, r: largest_weighted_delay(c, q, w, r, DEADLINES[: q.shape[1]], 5),
    "EDF": lambda c, q, w, r: earliest_deadline(c, q, w, DEADLINES[: q.shape[1]], 5),
}


@pytest.fixture
def load(generator) -> tuple[Tensor, Tensor, Tensor]:
    """Queues with some empty ones, waiting times, average rates, for 16 cells of 10 links."""
    queues = 8 * torch.rand(16, 10, generator=generator) * (torch.rand(16, 10, generator=generator) < 0.7)
    waiting = torch.randint(0, 20, (16, 10), generator=generator) * (queues > 0)
    return queues, waiting.float(), 4 * torch.rand(16, 10, generator=generator)


def two_apart(gains: Tensor) -> ChannelState:
    """Two downlink users that do not hear each other, beside an uplink user that nobody hears."""
    cross = torch.zeros(1, 1, 2, dtype=torch.complex64)
    return ChannelState(torch.diag(gains.sqrt()).to(torch.complex64)[None], cross[..., :1], cross, cross)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_limits_hold_and_links_with_nothing_to_send_are_silent(channels, load, name):
    queues = load[0]
    queues[0] = 0
    precoder, power = SCHEDULERS[name](channels, *load)
    beams = precoder.abs().square().sum(-2)
    assert (beams.sum(-1) <= 1 + 1e-5).all()
    assert ((power >= 0) & (power <= 1)).all()
    sent = torch.cat([beams, power], dim=-1)
    assert (sent[queues == 0] == 0).all()
    rates = link_rates(channels, precoder, power)
    assert (rates[queues == 0] < 1e-3).all()
    assert (rates[1:].sum(-1) > 1).all()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_what_rounding_leaves_in_a_queue_is_not_sent(channels, load, name):
    queues, waiting, rates = load
    dust = torch.where(queues > 0, queues, 2e-5)
    for found, expected in zip(
        SCHEDULERS[name](channels, dust, waiting, rates), SCHEDULERS[name](channels, *load), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "round robin"])
def test_order_of_users_does_not_matter(channels, load, name):
    channels = channels.double()
    down, up = [3, 0, 5, 1, 4, 2], [2, 3, 0, 1]
    links = [*down, *(6 + k for k in up)]
    queues, waiting, rates = (one.double() for one in load)
    weights = {
        "M-LWDF": lambda c, q, w, r, d: largest_weighted_delay(c, q, w, r, d, 5),
        "EDF": lambda c, q, w, r, d: earliest_deadline(c, q, w, d, 5),
    }
    decide = weights.get(name, lambda c, q, w, r, d: SCHEDULERS[name](c, q, w, r))
    precoder, power = decide(channels, queues, waiting, rates, DEADLINES)
    turned = decide(
        channels.permute_users(down, up), queues[:, links], waiting[:, links], rates[:, links], DEADLINES[links]
    )
    expected = link_rates(channels, precoder, power)[:, links]
    torch.testing.assert_close(link_rates(channels.permute_users(down, up), *turned), expected, atol=0.02, rtol=0)


def test_max_weight_of_users_that_do_not_hear_each_other_is_weighted_water_filling():
    gains, queues = torch.tensor([5.0, 3.0]), torch.tensor([[2.0, 3.0, 0.0]])
    precoder, _ = max_weight(two_apart(gains), queues)
    level = (1 + (1 / gains).sum()) / queues.sum()
    torch.testing.assert_close(precoder.abs().square().sum(-2)[0], level * queues[0, :2] - 1 / gains, atol=1e-4, rtol=0)


def test_max_weight_goes_on_until_the_weighted_rate_rises_no_more(channels, load):
    queues = load[0]
    few, found, more = (
        float((queues * link_rates(channels, *decision)).sum())
        for decision in (
            weighted_wmmse(channels, queues),
            max_weight(channels, queues),
            max_weight(channels, queues, 600),
        )
    )
    assert few < 0.99 * found
    assert found == pytest.approx(more, rel=2e-3)


def test_square_root_weights_are_those_of_max_weight_with_rooted_queues(channels, load):
    rooted, plain = max_weight(channels, load[0], 5, 0.5), max_weight(channels, load[0].sqrt(), 5)
    assert all(torch.equal(a, b) for a, b in zip(rooted, plain, strict=True))


def test_scale_of_the_queues_does_not_matter(channels, load):
    large, small = (link_rates(channels, *max_weight(channels, scale * load[0], 5)) for scale in (1e4, 1e-2))
    torch.testing.assert_close(large, small, atol=0.05, rtol=0)


def test_a_weight_that_grows_never_lowers_its_link(channels):
    """Once WMMSE has converged; here for the weight that each scheduler gives to link 2."""
    ones = torch.ones(16, 10)
    favoured = torch.ones(16, 10)
    favoured[:, 2] = 50

    def rate(decision) -> Tensor:
        return link_rates(channels, *decision)[:, 2].mean()

    assert rate(max_weight(channels, favoured)) > rate(max_weight(channels, ones)) + 1
    assert rate(proportional_fair(channels, ones, 1 / favoured)) > rate(proportional_fair(channels, ones, ones)) + 1
    none = torch.full((10,), 100.0)
    late = earliest_deadline(channels, ones, 2 * favoured - 2, none)
    assert rate(late) > rate(earliest_deadline(channels, ones, 0 * ones, none)) + 1
    late = largest_weighted_delay(channels, ones, favoured, ones, none)
    assert rate(late) > rate(largest_weighted_delay(channels, ones, ones, ones, none)) + 1
    tight = none / favoured[0]
    early = largest_weighted_delay(channels, ones, ones, ones, tight)
    assert rate(early) > rate(largest_weighted_delay(channels, ones, ones, ones, none)) + 1


def test_round_robin_serves_every_link_that_asks_equally_often(channels):
    queues = torch.ones(16, 10)
    queues[:, [1, 8]] = 0
    served = torch.zeros(16, 10)
    for slot in range(30):
        precoder, power = round_robin(channels, queues, slot, 1)
        sent = torch.cat([precoder.abs().square().sum(-2), power], dim=-1) > 0
        assert (sent.sum(-1) == 2).all()
        served += sent
    assert (served[:, [1, 8]] == 0).all()
    assert (served > 0).sum(-1).eq(8).all()


def test_round_robin_takes_a_slot_of_each_cell(channels):
    slots = torch.arange(16)
    together = round_robin(channels, torch.ones(16, 10), slots, 2)
    for cell in (0, 7, 15):
        alone = round_robin(channels[cell : cell + 1], torch.ones(1, 10), cell, 2)
        torch.testing.assert_close(alone[0], together[0][cell : cell + 1])
        torch.testing.assert_close(alone[1], together[1][cell : cell + 1])


def test_a_link_alone_gets_all_of_the_power(channels):
    queues = torch.zeros(16, 10)
    queues[:, 4] = 1
    best = torch.log2(1 + channels.downlink[:, 4].abs().square().sum(-1))
    for name, schedule in SCHEDULERS.items():
        rates = link_rates(channels, *schedule(channels, queues, queues, queues))
        torch.testing.assert_close(rates[:, 4], best, atol=1e-3, rtol=1e-3, msg=name)

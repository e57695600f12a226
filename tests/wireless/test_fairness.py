"""The largest common rate against a search of its own, and WMMSE under minima."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from d2rl.common.errors import InputError
from d2rl.wireless import ChannelState, full_uplink_power, link_rates, random_decision, rzf, wmmse, zf
from d2rl.wireless.energy import Consumption
from d2rl.wireless.fairness import common_rate, fair_wmmse, improve_by, max_min
from d2rl.wireless.objectives import ENERGY, MAX_MIN, MINIMUM, REACH, Objective

CELLS = {
    "downlink": {"uplink_users": 0, "path_loss": "nlos"},
    "as many users as antennas": {"uplink_users": 0, "downlink_users": 3, "transmit_antennas": 3, "path_loss": "nlos"},
    "overloaded downlink": {"uplink_users": 0, "downlink_users": 6, "transmit_antennas": 4, "path_loss": "nlos"},
    "uplink": {"downlink_users": 0, "path_loss": "nlos"},
    "overloaded uplink": {"downlink_users": 0, "uplink_users": 6, "receive_antennas": 4, "path_loss": "nlos"},
}


def smallest(channels: ChannelState, decision: tuple[Tensor, Tensor]) -> Tensor:
    return link_rates(channels, *decision).amin(-1)


def least_sum_power(g: Tensor, target: float, steps: int = 3000) -> Tensor:
    """Powers of the dual uplink that reach a SINR, user by user in double: Yates' fixed point, from below."""
    users, antennas = g.shape
    q = torch.zeros(users, dtype=torch.float64)
    for _ in range(steps):
        new = []
        for k in range(users):
            noise = torch.eye(antennas, dtype=g.dtype)
            noise = noise + sum(q[i] * torch.outer(g[i], g[i].conj()) for i in range(users) if i != k)
            new.append(target / torch.vdot(g[k], torch.linalg.solve(noise, g[k])).real)
        before, q = q, torch.stack(new)
        if q.max() > 1e3 or (q - before).abs().max() < 1e-9 * q.max():
            break
    return q


@pytest.mark.parametrize("cell", ["as many users as antennas", "uplink"])
def test_the_common_rate_is_where_bisection_finds_the_limit_of_the_power(make_channels, cell):
    """A little below it the least powers are within the limit, a little above they are not."""
    channels = make_channels(1, **CELLS[cell])
    reached = float(smallest(channels, max_min(channels)))
    downlink = channels.downlink_users > 0
    vectors = (channels.downlink if downlink else channels.uplink)[0].to(torch.complex128)
    for rate, possible in ((reached - 0.01, True), (reached + 0.01, False)):
        powers = least_sum_power(vectors, 2**rate - 1)
        assert bool((powers.sum() if downlink else powers.max()) <= 1) == possible


@pytest.mark.parametrize("cell", CELLS)
def test_all_users_have_the_same_rate_at_full_power(make_channels, cell):
    channels = make_channels(**CELLS[cell])
    precoder, power = max_min(channels)
    rates = link_rates(channels, precoder, power)
    assert (rates.amax(-1) - rates.amin(-1)).max() < 1e-4
    used = precoder.abs().square().sum((-2, -1)) if channels.downlink_users else power.amax(-1)
    torch.testing.assert_close(used, torch.ones(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(common_rate(channels, torch.ones(16, channels.links)), rates.amin(-1))


@pytest.mark.parametrize("cell", CELLS)
def test_no_other_decision_gives_all_users_more(make_channels, cell, generator):
    channels = make_channels(**CELLS[cell])
    best = smallest(channels, max_min(channels))
    ones = full_uplink_power(channels)
    others = [(rzf(channels), ones), (zf(channels), ones), random_decision(channels, generator), wmmse(channels, 30)]
    others.append(fair_wmmse(channels, torch.ones(16, channels.links), Objective(MAX_MIN), 60))
    for decision in others:
        assert (smallest(channels, decision) <= best + 1e-3).all()


def test_one_user_has_its_capacity(make_channels):
    channels = make_channels(downlink_users=1, uplink_users=0)
    capacity = torch.log2(1 + channels.downlink.abs().square().sum((1, 2)))
    torch.testing.assert_close(smallest(channels, max_min(channels)), capacity, atol=1e-4, rtol=0)


def test_users_that_are_not_wanted_or_not_heard_are_left_out(make_channels):
    channels = make_channels(**CELLS["downlink"])
    weights = torch.ones(16, 6)
    weights[:, 2] = 0
    some = replace(channels, downlink=channels.downlink[:, [0, 1, 3, 4, 5]], cross=channels.cross[..., :5])
    expected = smallest(some, max_min(some))
    torch.testing.assert_close(common_rate(channels, weights), expected, atol=1e-4, rtol=0)
    silent = replace(channels, downlink=channels.downlink * weights.unsqueeze(-1))
    rates = link_rates(silent, *max_min(silent))
    assert (rates[:, 2] == 0).all()
    torch.testing.assert_close(rates[:, 0], expected, atol=1e-4, rtol=0)
    assert (common_rate(silent, torch.ones(16, 6)) == 0).all()


def test_with_both_directions_there_is_no_exact_one(channels):
    with pytest.raises(InputError, match="in one direction alone"):
        max_min(channels)


def test_fair_wmmse_gives_the_worst_link_far_more_than_wmmse_and_never_more_than_possible(make_channels):
    channels = make_channels()
    weights = torch.ones(16, 10)
    fair = smallest(channels, fair_wmmse(channels, weights, Objective(MAX_MIN), 100))
    assert (fair <= common_rate(channels, weights) + 1e-3).all()
    assert fair.mean() > 5 * smallest(channels, wmmse(channels, 100)).mean()


@pytest.mark.parametrize("cell", [{}, CELLS["downlink"]])
def test_a_minimum_is_kept_at_little_cost(make_channels, cell):
    channels = make_channels(**cell)
    weights = torch.ones(16, channels.links)
    rates = link_rates(channels, *fair_wmmse(channels, weights, Objective(MINIMUM, 1.0), 60))
    assert (rates >= 1.0 - 1e-4).all()
    free = link_rates(channels, *wmmse(channels, 100)).sum(-1)
    assert rates.sum(-1).mean() > 0.85 * free.mean()


@pytest.mark.parametrize("kind", [MAX_MIN, MINIMUM])
def test_improving_keeps_the_limits_and_is_never_worse(channels, generator, kind):
    objective, weights = Objective(kind, 1.0), torch.rand(16, 10, generator=generator)
    weights[:, 3] = 0
    start = random_decision(channels, generator)
    scores = []
    for iterations in (0, 3, 10):
        precoder, power = improve_by(objective, channels, *start, weights, iterations)
        assert (precoder.abs().square().sum((-2, -1)) <= 1 + 1e-5).all()
        assert ((power >= 0) & (power <= 1)).all()
        scores.append(objective.score(link_rates(channels, precoder, power).double(), weights.double()))
    assert all((later >= before - 1e-2).all() for before, later in pairwise(scores))


# ------------------------------------------------------------------ the objective


def test_scores_order_decisions_as_the_objective_says():
    rates = torch.tensor([[[5.0, 1.0, 0.0], [2.0, 2.0, 0.0], [9.0, 0.5, 9.0]]])
    weights = torch.tensor([[[1.0, 2.0, 0.0]]])
    assert Objective().score(rates, weights).tolist() == [[7.0, 6.0, 10.0]]
    assert Objective(MAX_MIN).score(rates, weights).tolist() == [[1.0, 2.0, 0.5]]
    assert Objective(MINIMUM, 1.0).score(rates, weights).argmax() == 0
    assert Objective(MINIMUM, 1.5).score(rates, weights).argmax() == 1
    assert Objective(MINIMUM, 1.0).shortfall(rates, weights).tolist() == [[0.0, 0.0, 0.5]]


@pytest.mark.parametrize("kind", [MAX_MIN, MINIMUM])
def test_multipliers_rise_for_those_that_fall_short_and_stay_within_reach(kind):
    objective, weights = Objective(kind, 1.0), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    rates, multipliers = torch.tensor([[0.2, 3.0, 9.0, 0.0]]), torch.zeros(1, 4)
    for _ in range(100):
        multipliers = objective.step(multipliers, rates, weights)
    assert multipliers[0, 0] > multipliers[0, 2]
    assert multipliers.abs().max() <= REACH
    assert objective.priorities(multipliers, weights)[0, 3] == 0


def test_metrics_say_how_far_a_minimum_was_missed():
    rates, weights = torch.tensor([[2.0, 0.5], [3.0, 4.0]]), torch.ones(2, 2)
    decision = torch.zeros(2, 4, 2), torch.zeros(2, 0)
    assert Objective(MAX_MIN).metrics(rates, weights, decision) == {"min_rate": 1.75}
    expected = {"min_rate": 1.75, "satisfied": 0.5, "shortfall": 0.25}
    assert Objective(MINIMUM, 1.0).metrics(rates, weights, decision) == expected


def test_efficiency_is_the_weighted_sum_over_what_several_decisions_of_a_state_take():
    objective = Objective(ENERGY, consumption=Consumption(2.0, 0.5, 1.0, bandwidth=10.0))
    rates, weights = torch.tensor([[[3.0, 1.0], [3.0, 1.0]]]), torch.tensor([[[1.0, 2.0]]])
    precoder, power = torch.tensor([[[1.0]], [[0.5]]]), torch.tensor([[1.0], [0.0]])
    torch.testing.assert_close(objective.score(rates, weights, (precoder, power)), torch.tensor([[50 / 3.5, 50 / 1.5]]))
    found = objective.metrics(rates[0], weights[0].expand(2, 2), (precoder, power))
    assert found == pytest.approx({"energy_efficiency": (50 / 3.5 + 50 / 1.5) / 2, "total_power": 2.5})

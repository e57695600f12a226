"""The cell with queues: conservation, Little's law, what a decision leads to, equal random numbers for all policies."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from d2rl.common.errors import ConfigError
from d2rl.config.defaults import FullDuplexConfig
from d2rl.evaluation.episodes import EpisodeEvaluation
from d2rl.problems import check_config, load_config, make_problems
from d2rl.problems.base import Simulation
from d2rl.problems.traffic.problem import TrafficProblem
from d2rl.problems.traffic.settings import TrafficConfig
from d2rl.testing import check_problem
from d2rl.wireless import full_uplink_power, rzf

CELL = FullDuplexConfig(episode_length=40, head="switching")


def problem(**traffic):
    return TrafficProblem(TrafficConfig(**traffic), CELL)


def full_power(state):
    return rzf(state.cell.estimate), full_uplink_power(state.cell.estimate)


def silent(state):
    precoder, power = full_power(state)
    return 0 * precoder, 0 * power


KINDS = {
    "on-off": {},
    "Poisson": {"arrivals": "poisson"},
    "loads": {"load_low": 0.2, "load_high": 1.2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_cells_with_queues_conform(kind):
    check_problem(problem(**KINDS[kind]))


def test_bits_are_neither_made_nor_lost():
    world = Simulation(problem().endless(), 5, 0)
    before, arrived, served = world.state.queues, 0.0, 0.0
    for _ in range(30):
        record = world.step(full_power(world.state)).record
        arrived, served = arrived + record.arrived, served + record.delays.sum(-1)
    assert torch.allclose(world.state.queues, before + arrived - served, atol=1e-3)


def test_the_load_is_what_arrives_on_average():
    world = Simulation(problem(load=0.5).endless(), 64, 0)
    arrived = torch.stack([world.step(silent(world.state)).record.arrived for _ in range(60)]).mean((0, 1))
    assert torch.allclose(arrived[:6], torch.full((6,), 1.0), rtol=0.15)
    assert torch.allclose(arrived[6:], torch.full((4,), 3.5), rtol=0.15)


def test_a_silent_station_lets_everything_wait():
    world = Simulation(problem().endless(), 4, 0)
    for _ in range(5):
        queues = world.state.queues
        step = world.step(silent(world.state))
        assert torch.equal(step.utility[:, 0], -queues)
        assert torch.allclose(world.state.queues, queues + step.record.arrived, atol=1e-4)


def test_the_decision_says_what_waits_in_the_next_slot():
    cells = problem()
    state = cells.reset(3, torch.Generator().manual_seed(0))
    served, waited = (
        cells.step(state, policy(state), torch.Generator().manual_seed(1)) for policy in (full_power, silent)
    )
    assert torch.allclose(served.utility, cells.measure(state, full_power(state)), atol=1e-5)
    assert bool((served.state.queues <= waited.state.queues).all())
    assert float(served.state.queues.sum()) < float(waited.state.queues.sum())


def test_channels_and_arrivals_are_the_same_for_every_policy():
    worlds = [Simulation(problem().endless(), 4, 7) for _ in range(2)]
    for _ in range(5):
        first, second = worlds[0].step(full_power(worlds[0].state)), worlds[1].step(silent(worlds[1].state))
        assert torch.equal(first.record.arrived, second.record.arrived)
    assert torch.equal(worlds[0].state.cell.channels.downlink, worlds[1].state.cell.channels.downlink)


def test_an_episode_that_ends_begins_again_with_short_queues():
    world = Simulation(TrafficProblem(TrafficConfig(load=3.0), replace(CELL, episode_length=4)), 4, 0)
    steps = [world.step(silent(world.state)) for _ in range(8)]
    ended = torch.stack([step.truncated for step in steps]).sum(0)
    assert ended.tolist() == [2, 2, 2, 2]
    last = steps[-1]
    rows = last.truncated
    assert bool((last.following.queues[rows].sum(-1) > last.state.queues[rows].sum(-1)).all())
    assert torch.equal(last.following.queues[~rows], last.state.queues[~rows])
    assert float(last.state.head_of_line[rows].max()) == 0


def test_bits_that_wait_add_up_to_the_delays_of_all_bits():
    """Little's law, slot by slot: every slot adds one to the delay of each bit that waits."""
    world, ages = Simulation(problem(ages=64).endless(), 8, 0), torch.arange(63, -1, -1)
    records = [world.step(full_power(world.state)).record for _ in range(30)]
    delayed = sum(float((record.delays * ages).sum()) for record in records)
    waiting = float((world.state.bits * ages).sum())
    assert sum(float(record.backlog.sum()) for record in records) == pytest.approx(delayed + waiting, rel=1e-4)


def test_more_load_waits_longer_and_the_silent_wait_longest():
    delays = [EpisodeEvaluation(problem(load=load), 8, 0).judge(full_power)["mean_delay"] for load in (0.3, 1.0)]
    assert delays[0] < delays[1]
    assert EpisodeEvaluation(problem(), 8, 0).judge(silent)["mean_delay"] > delays[1]


def test_its_keys_stand_in_two_sections():
    config = load_config(["problem=traffic", "traffic.load=0.5", "scenario.downlink_users=3"])
    check_config(config)
    made = make_problems(config)[0]
    assert (made.config.load, made.layout.counts) == (0.5, (3, 4))


def test_loads_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match=r"traffic\.load_low \(2\) must be at most traffic\.load_high \(1\)"):
        check_config(load_config(["problem=traffic", "traffic.load_low=2"]))

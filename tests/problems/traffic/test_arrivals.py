"""What arrives: moments in closed form, phases, and links of several kinds in one cell."""

from __future__ import annotations

import pytest
import torch

from d2rl.config.defaults import FullDuplexConfig
from d2rl.evaluation.episodes import EpisodeEvaluation
from d2rl.problems.base import Simulation
from d2rl.problems.traffic.arrivals import Arrivals
from d2rl.problems.traffic.problem import TrafficProblem
from d2rl.problems.traffic.settings import TrafficConfig
from d2rl.wireless import full_uplink_power, rzf

CELL = FullDuplexConfig(head="switching", episode_length=12)  # 6 + 4 users; 2 and 7 arrive for one at load 1
RATE, SHARE, BURST, PACKET, PERIOD = 2.0, 0.4, 5.0, 1.5, 10


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(
        "slot,link,bits\n" + "\n".join(f"{s},{k},{1e5 * (100 * k + s)}" for s in range(30) for k in range(10))
    )
    return str(path)


def played(slots: int, batch: int, **traffic) -> torch.Tensor:
    """What arrives for B cells of empty queues, [slots, B, K]."""
    arrivals, generator = Arrivals(TrafficConfig(**traffic), CELL), torch.Generator().manual_seed(0)
    sources, brought = arrivals.reset(batch, generator), []
    for _ in range(slots):
        sources, came = arrivals.advance(sources, torch.zeros(batch, 10), generator)
        brought.append(came)
    return torch.stack(brought)


def full_power(state):
    return rzf(state.cell.estimate), full_uplink_power(state.cell.estimate)


@pytest.mark.parametrize("down", ["on_off", "poisson", "trace"])
@pytest.mark.parametrize("up", ["periodic", "full_buffer"])
def test_each_direction_of_a_mixed_cell_gets_what_that_of_a_cell_of_its_kind_does(down, up, trace):
    """So kinds can be compared with all else equal: those that draw nothing take no numbers from the others."""
    file = {"trace": trace} if down == "trace" else {}
    mixed = played(25, 7, arrivals=f"{down}+{up}", **file)
    assert torch.equal(mixed[..., :6], played(25, 7, arrivals=down, **file)[..., :6])
    assert torch.equal(mixed[..., 6:], played(25, 7, arrivals=up)[..., 6:])


@pytest.mark.parametrize("sizes", ["fixed", "exponential"])
def test_moments_of_bursts_beside_poisson_links_are_those_of_the_closed_forms(sizes):
    """A Poisson number of packets has variance P r; a random intensity adds its own, r^2 (1 - s) / s, which is still
    there in the next slot but for bursts that began or ended. A common factor of second moment 2 doubles squares."""
    arrived = played(
        *(2, 60_000), arrivals="on_off,poisson,on_off,poisson,on_off,poisson+poisson", packet=PACKET, packet_sizes=sizes
    ).double()
    first, second = arrived[..., :6].unflatten(-1, (3, 2)).flatten(1, 2)  # [B * 3, on_off or poisson]
    swings = torch.tensor([RATE**2 * (1 - SHARE) / SHARE, 0.0], dtype=torch.float64)
    squares = (RATE * PACKET + swings + RATE**2) * (2 if sizes == "exponential" else 1)
    kept = 1 - 1 / BURST - SHARE / (1 - SHARE) / BURST
    for one in (first, second):
        torch.testing.assert_close(one.mean(0), torch.full((2,), RATE, dtype=torch.float64), rtol=0.03, atol=0)
        torch.testing.assert_close(one.square().mean(0), squares, rtol=0.05, atol=0)
    covariance = (first * second).mean(0) - first.mean(0) * second.mean(0)
    torch.testing.assert_close(covariance, kept * swings, rtol=0.1, atol=0.15)
    assert float(arrived[..., 6:].mean()) == pytest.approx(7, rel=0.03)


def test_periodic_links_beside_bursty_ones_have_phases_all_over_the_period():
    arrived = played(2 * PERIOD, 3000, arrivals="on_off+periodic", period=PERIOD)[..., 6:]
    first, again = arrived[:PERIOD], arrived[PERIOD:]
    assert torch.equal(first, again)
    assert bool(((first > 0).sum(0) == 1).all())
    torch.testing.assert_close(first.sum(0), torch.full((3000, 4), 7.0 * PERIOD))
    shares = (first > 0).double().mean((1, 2))
    torch.testing.assert_close(shares, torch.full((PERIOD,), 1 / PERIOD, dtype=torch.float64), rtol=0.15, atol=0)
    together = (first[..., 0] > 0) & (first[..., 1] > 0)  # phases of two links are independent
    assert float(together.double().sum(0).mean()) == pytest.approx(1 / PERIOD, rel=0.2)


def test_links_of_one_direction_may_be_of_several_kinds(trace):
    arrived = played(
        *(PERIOD, 500),
        arrivals="full_buffer,trace,poisson,periodic,on_off,trace+trace,poisson,periodic,full_buffer",
        trace=trace,
    )
    assert bool((arrived[..., [0, 9]] == 100).all())
    assert bool(((arrived[..., [3, 8]] > 0).sum(0) == 1).all())
    torch.testing.assert_close(arrived[..., [2, 4, 7]].mean((0, 1)), torch.tensor([2.0, 2.0, 7.0]), rtol=0.1, atol=0)
    slots = arrived[..., [1, 5, 6]] - torch.tensor([100.0, 500.0, 600.0])
    assert bool((slots == slots[..., :1]).all())
    assert bool(((slots[1:] - slots[:-1]) % 30 == 1).all())
    assert len(set(slots[0, :, 0].tolist())) > 20


def test_a_cell_with_some_full_buffers_fills_those_and_judges_delays_by_the_others():
    mixed = TrafficProblem(TrafficConfig(arrivals="full_buffer,full_buffer,on_off,on_off,on_off,on_off+periodic"), CELL)
    world = Simulation(mixed.endless(), 4, 0)
    for _ in range(3):
        world.step(full_power(world.state))
        assert torch.allclose(world.state.queues[:, :2], torch.full((4, 2), 100.0), atol=1e-3)
        assert float(world.state.queues[:, 2:].max()) < 100
    assert mixed.least_delay(2, 0, "cpu") is None
    evaluation = EpisodeEvaluation(mixed, 4, 0, references=False)
    metrics = evaluation.score("mine", full_power)
    total = evaluation.outcomes["mine"].total
    assert metrics["mean_delay"] == pytest.approx(
        float(total.backlog[:, 2:].sum() / total.arrived[:, 2:].sum()), rel=1e-4
    )
    assert float(total.backlog[:, :2].sum() / total.arrived[:, :2].sum()) > 5 * metrics["mean_delay"]

"""Synthetic channels in cells with queues: what they replace, what they leave, and how slots fit each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.explorers.state import SENPNN
from d2rl.common.errors import ConfigError
from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems import check_config, load_config
from d2rl.problems.base import Simulation
from d2rl.problems.traffic.problem import TrafficProblem
from d2rl.problems.traffic.settings import TrafficConfig
from d2rl.testing import check_problem
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.fading import whiten

CELL = FullDuplexConfig(
    downlink_users=2, uplink_users=2, transmit_antennas=3, receive_antennas=3, episode_length=40, head="switching"
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def traffic(delay: int = 0, **cell) -> TrafficProblem:
    return TrafficProblem(TrafficConfig(csi_delay=delay), replace(CELL, **cell))


def under_way(problem: TrafficProblem, batch: int, slots: int, seed: int = 0) -> Simulation:
    """Cells in which nothing was served for some slots."""
    world = Simulation(problem, batch, seed)
    precoder, power = problem.decode(problem.observe(world.state), torch.zeros(batch, 1, problem.layout.size))
    for _ in range(slots):
        world.step((0 * precoder, 0 * power))
    return world


def made_anew(problem: TrafficProblem, state):
    """The state with rows of white noise."""
    rows = problem.rows(state)
    numbers = {name: torch.randn(one.numbers.shape, generator=seeded(9)) for name, one in rows.items()}
    return problem.with_rows(state, numbers, seeded(8)), numbers


WORLDS = {
    "exact": (0, {}),
    "noisy": (0, {"csi_error": 0.2}),
    "late": (2, {}),
    "late, noisy, line of sight": (2, {"csi_error": 0.1, "rician": 5.0}),
    "stored": (0, {"fixed_drop": 3, "stored_states": 9}),
    "stored and noisy": (0, {"fixed_drop": 3, "stored_states": 9, "csi_error": 0.1}),
}


@pytest.mark.parametrize("kind", WORLDS)
def test_cells_whose_channels_can_be_replaced_conform(kind):
    delay, cell = WORLDS[kind]
    check_problem(traffic(delay, **cell))


@pytest.mark.parametrize("kind", WORLDS)
def test_queues_are_served_over_synthetic_channels_and_everything_else_stays(kind):
    delay, cell = WORLDS[kind]
    problem = traffic(delay, **cell)
    state = under_way(problem, 5, 4).state
    made, numbers = made_anew(problem, state)
    for name, rows in problem.rows(made).items():
        assert torch.allclose(rows.numbers, numbers[name], atol=1e-3), name
    for name in ("bits", "arrived", "throughput", "untold", "unreported"):
        assert torch.equal(getattr(made, name), getattr(state, name)), name
    assert not torch.allclose(problem.observe(made).nodes, problem.observe(state).nodes)
    decision = problem.decode(problem.observe(made), torch.zeros(5, 1, problem.layout.size))
    step = problem.step(made, decision, seeded(1))
    assert torch.allclose(step.utility, problem.measure(made, decision), atol=1e-4)
    assert not torch.allclose(step.utility, problem.measure(state, decision), atol=1e-1)
    real = problem.step(state, decision, seeded(1))
    for name, tensor in real.state.cell.tensors().items():
        assert torch.equal(tensor, step.state.cell.tensors()[name]), name
    if delay:
        assert torch.equal(real.state.known.downlink, step.state.known.downlink)


def test_late_estimates_are_those_of_the_slots_in_which_they_were_made():
    problem = traffic(2)
    world, seen = Simulation(problem.endless(), 3, 0), []
    for _ in range(4):
        seen.append(world.state.cell.estimate.uplink)
        world.step(problem.decode(problem.observe(world.state), torch.zeros(3, 1, problem.layout.size)))
    assert torch.equal(world.state.estimate.uplink, seen[2])


def test_the_agent_replaces_channels_in_a_share_of_the_slots(tiny, fit):
    late = ("traffic.csi_delay=1", "traffic.load=2")
    asked = ("problem=traffic", "stages.action=null", "action.candidates=1", "stages.state=0")
    agent = D2RL(tiny(*asked, *late))
    agent.stages["state"], agent.chi = True, 0.5
    fit(agent)
    assert not agent.imagines
    for synthetic in (False, True):
        agent.replacements_due = 0.5 * synthetic
        real = agent.world.state
        agent.interact()
        acted_on = agent.replay.newest(agent.world.batch).observation.known
        assert torch.equal(acted_on.waiting.queues, real.queues)
        assert torch.equal(acted_on.channels.downlink, real.known.downlink) != synthetic


def test_stored_channels_are_shown_in_training_and_others_in_evaluations():
    problem = traffic(fixed_drop=3, stored_states=9)
    kept, stored = problem.held_out(64, torch.device("cpu"))
    assert kept.batch + stored.batch <= 18

    def fingerprints(cell):
        return set(cell.channels.downlink[:, 0, 0].tolist())

    known, world = fingerprints(problem.links.cells.stored(torch.device("cpu"))), Simulation(problem, 16, 0)
    for state in (*(under_way(problem, 16, slots).state for slots in (0, 1, 5)), kept, stored):
        assert fingerprints(state.cell) <= known
    judged = Simulation(problem.endless(), 16, 7)
    assert not fingerprints(judged.state.cell) & known
    assert torch.equal(world.state.cell.gains.downlink, judged.state.cell.gains.downlink)


def test_episodes_over_stored_channels_are_as_long_as_others():
    problem = traffic(fixed_drop=3, stored_states=9, episode_length=4)
    world = Simulation(problem, 4, 0)
    decision = problem.decode(problem.observe(world.state), torch.zeros(4, 1, problem.layout.size))
    steps = [world.step((0 * decision[0], 0 * decision[1])) for _ in range(8)]
    assert torch.stack([step.truncated for step in steps]).sum(0).tolist() == [2, 2, 2, 2]
    for step in steps:  # nobody was served, so the oldest bits tell when queues began
        assert float(step.state.head_of_line[step.truncated].amax()) == 0


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["scenario.stored_states=9"], r"queues are of users who stay; set scenario\.fixed_drop=0"),
        (["scenario.stored_states=9", "scenario.fixed_drop=1", "traffic.csi_delay=1"], r"set traffic\.csi_delay=0, or"),
        (["scenario.channel_bank=a.pt", "scenario.csi_error=0.1"], r"a\.pt do not tell; set scenario\.csi_error=0"),
    ],
)
def test_stored_channels_that_queues_cannot_live_on_are_refused(asked, told):
    with pytest.raises(ConfigError, match=told):
        check_config(load_config(["problem=traffic", *asked]))


# ------------------------------------------------------------------ two slots that fit each other


CELLS = 96  # that SENPNN learns from


def trained(problem: TrafficProblem, source: TrafficProblem, updates: int = 120) -> SENPNN:
    """SENPNN for the rows of ``problem``, on states of ``source``."""
    world, generator = under_way(source, CELLS, source.config.csi_delay), seeded(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        explorer = SENPNN(problem.row_sizes(), problem.place_sizes(), width=48, lr=1e-2)
    optimizer = explorer.configure_optimizers()
    silence = torch.zeros(CELLS, 3, 2, dtype=torch.complex64), torch.zeros(CELLS, 2)
    for _ in range(updates):
        loss, _ = explorer.loss(problem.rows(world.state), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        world.step(silence)
    return explorer


def moments(late: ChannelState, now: ChannelState, gains, name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Correlation of the two slots for each antenna, and covariance over antennas in either."""
    seen, true = (getattr(whiten(one, gains), name).flatten(0, -2) for one in (late, now))
    power = (seen.abs().square().mean(0) * true.abs().square().mean(0)).sqrt()
    over_time = (true * seen.conj()).mean(0) / power
    return over_time, seen.mT @ seen.conj() / len(seen), true.mT @ true.conj() / len(true)


@pytest.mark.parametrize(("speed", "within"), [(3.0, (0.03, 0.12)), (5.0, (0.08, 0.35))])
def test_late_estimates_and_channels_are_made_with_the_correlation_of_their_slots(speed, within):
    """Jakes' correlation of the slots that are seen, nearly also where the scenario says that users are at 3 km/h."""
    problem, source = traffic(2), traffic(2, speed=speed, episode_length=10**6)
    expected = source.links.cells.correlation**2
    explorer = trained(problem, source)
    state = under_way(source, 2048, 2, seed=5).state
    made = problem.with_rows(state, explorer.generate(problem.rows(state), generator=seeded(2)), seeded(3))
    assert not torch.equal(made.cell.channels.downlink, state.cell.channels.downlink)
    for name in ("downlink", "uplink", "self_interference"):
        over_time, late, now = moments(made.estimate, made.cell.channels, state.cell.gains, name)
        fading = 1.0 if name != "self_interference" else 1 / (1 + 10**0.1)  # the rest is the same in all slots
        assert (over_time - (1 - fading + fading * expected)).abs().max() < within[0], name
        if name != "self_interference":
            for covariance in (late, now):
                assert (covariance - torch.eye(3)).abs().max() < within[1], name

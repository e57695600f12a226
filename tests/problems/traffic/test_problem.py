"""The cell with queues: conservation, Little's law, what a decision leads to, equal random numbers for all policies."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from d2rl.algorithm.rewards import designed_reward
from d2rl.commands.train_eval import train_command
from d2rl.common.errors import ConfigError
from d2rl.config.defaults import FullDuplexConfig
from d2rl.evaluation.episodes import EpisodeEvaluation
from d2rl.problems import check_config, check_files, load_config, make_problems
from d2rl.problems.base import Simulation
from d2rl.problems.full_duplex.simulator import rates_of
from d2rl.problems.traffic.problem import TrafficProblem
from d2rl.problems.traffic.queues import DUST
from d2rl.problems.traffic.settings import TrafficConfig
from d2rl.testing import check_problem
from d2rl.wireless import full_uplink_power, rzf
from d2rl.wireless.mcs import sinr_of

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
    "Poisson": {"arrivals": "poisson", "packet_sizes": "exponential"},
    "periodic": {"arrivals": "periodic"},
    "full buffer": {"arrivals": "full_buffer"},
    "directions": {"arrivals": "on_off+periodic", "uplink_deadline": 3},
    "links": {"arrivals": "on_off,poisson,periodic,full_buffer,on_off,poisson+periodic,on_off,poisson,full_buffer"},
    "loads": {"load_low": 0.2, "load_high": 1.2},
    "deadlines": {"downlink_deadline": 3, "load": 2.0},
    "buffers": {"uplink_buffer": 10.0, "load": 2.0},
    "prices": {"minimum_rate": 1.0, "energy_price": 1.0},
    "late CSI": {"csi_delay": 2},
    "scalar": {"feedback": "scalar"},
    "report": {"feedback": "report", "report_slots": 3},
    "schemes": {"transmission": "mcs", "csi_delay": 1},
    "acknowledgements": {"transmission": "mcs", "feedback": "ack"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_cells_with_queues_conform(kind):
    check_problem(problem(**KINDS[kind]))


@pytest.mark.parametrize("silent", ["downlink_users", "uplink_users"])
def test_cells_of_one_direction_conform(silent):
    check_problem(TrafficProblem(TrafficConfig(), replace(CELL, **{silent: 0})))


def test_bits_are_neither_made_nor_lost():
    world = Simulation(problem().endless(), 5, 0)
    before, arrived, served = world.state.queues, 0.0, 0.0
    for _ in range(30):
        record = world.step(full_power(world.state)).record
        arrived, served = arrived + record.arrived, served + record.delays.sum(-1)
    assert torch.allclose(world.state.queues, before + arrived - served, atol=1e-3)


@pytest.mark.parametrize("kind", ["on-off", "Poisson", "periodic"])
def test_the_load_is_what_arrives_on_average(kind):
    world = Simulation(problem(**KINDS[kind] | {"load": 0.5}).endless(), 64, 0)
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


def test_what_is_late_is_dropped_and_nothing_else():
    """With a deadline of d slots, a bit that is never served waits for d slots and is then counted."""
    world = Simulation(problem(downlink_deadline=3).endless(), 4, 0)
    first = world.state.queues
    records = [world.step(silent(world.state)).record for _ in range(4)]
    dropped = [record.late for record in records]
    assert not any(record.refused.any() for record in records)
    assert not (dropped[0] + dropped[1]).any()
    assert torch.allclose(dropped[2][:, :6], first[:, :6])
    assert torch.allclose(dropped[3][:, :6], records[0].arrived[:, :6])
    assert not torch.stack(dropped)[:, :, 6:].any()


def test_what_a_buffer_has_no_room_for_is_dropped():
    world = Simulation(problem(uplink_buffer=10.0, load=3.0).endless(), 4, 0)
    before = world.state.queues
    for _ in range(6):
        record = world.step(silent(world.state)).record
        assert torch.allclose(world.state.queues, before + record.arrived - record.dropped, atol=1e-3)
        before = world.state.queues
        assert not record.late.any()
    assert float(before[:, 6:].max()) <= 10.0
    assert float(before[:, :6].max()) > 10.0


def test_drops_are_told_by_their_cause():
    """In a cell that is silent what comes in is dropped in the end, late or for want of room."""
    traffic = problem(downlink_deadline=2, uplink_buffer=10.0, load=3.0)
    outcome = EpisodeEvaluation(traffic, 4, 0)
    metrics = outcome.score("silent", silent)
    total = outcome.outcomes["silent"].total
    arrived = float(total.arrived.sum())
    assert metrics["dropped_late"] == pytest.approx(float(total.dropped[:, :6].sum()) / arrived, rel=1e-4)
    assert metrics["dropped_full"] == pytest.approx(float(total.dropped[:, 6:].sum()) / arrived, rel=1e-4)
    assert min(metrics["dropped_late"], metrics["dropped_full"]) > 0.1
    assert metrics["dropped_late"] + metrics["dropped_full"] == pytest.approx(metrics["dropped"])
    assert set(outcome.report()["shown"]) >= {"dropped", "dropped_late", "dropped_full"}
    assert "dropped_late" not in problem(downlink_deadline=2).shown


def test_full_buffers_are_full_in_every_slot():
    world = Simulation(problem(arrivals="full_buffer").endless(), 4, 0)
    for _ in range(3):
        world.step(full_power(world.state))
        assert torch.allclose(world.state.queues, torch.full((4, 10), 100.0), atol=1e-3)


def test_a_periodic_source_brings_one_packet_in_every_period():
    world = Simulation(problem(arrivals="periodic", period=5).endless(), 4, 0)
    arrived = torch.stack([world.step(silent(world.state)).record.arrived for _ in range(10)])
    assert ((arrived > 0).sum(0) == 2).all()
    assert torch.equal(arrived[:5], arrived[5:])


@pytest.mark.parametrize(("feedback", "every"), [("scalar", 1), ("report", 4)])
def test_the_learner_is_told_the_same_in_all_but_later_and_not_of_whom(feedback, every):
    plain, told = problem(), problem(feedback=feedback, report_slots=4)
    first, second = Simulation(plain, 3, 0), Simulation(told, 3, 0)
    sums = []
    for slot in range(1, 9):
        dense, other = first.step(full_power(first.state)), second.step(full_power(second.state))
        sums.append(dense.utility.sum((1, 2)))
        assert torch.equal(other.utility, other.utility[..., :1].expand(-1, -1, 10))
        if slot % every:
            assert not other.utility.any()
        else:
            assert torch.allclose(other.utility.sum((1, 2)), sum(sums[-every:]), rtol=1e-4)


def test_a_report_also_comes_when_an_episode_ends():
    cells = TrafficProblem(TrafficConfig(feedback="report", report_slots=1000), replace(CELL, episode_length=3))
    world = Simulation(cells, 3, 0)
    for _ in range(6):
        step = world.step(silent(world.state))
        assert torch.equal(step.utility.sum((1, 2)) != 0, step.truncated)


def test_a_base_station_sees_the_channels_of_slots_ago():
    world = Simulation(problem(csi_delay=2).endless(), 3, 0)
    seen = [world.state.cell.channels.downlink]
    for _ in range(4):
        world.step(silent(world.state))
        seen.append(world.state.cell.channels.downlink)
    known = world.state.known.downlink
    assert torch.allclose(known / known.norm(dim=-1, keepdim=True), seen[2] / seen[2].norm(dim=-1, keepdim=True))
    assert torch.equal(world.problem.observe(world.state).known.channels.downlink, known)


def test_a_trace_is_played_from_a_slot_of_each_cell_on_and_scaled_by_the_load(tmp_path):
    file = tmp_path / "trace.csv"
    slots = [(slot, slot % 10, 1e5 * (slot + 1)) for slot in range(40)]  # 1e5 bits are one bit/s/Hz-slot
    file.write_text("slot,link,bits\n" + "\n".join(",".join(map(str, row)) for row in slots))
    world = Simulation(problem(arrivals="trace", trace=str(file), load=2.0).endless(), 3, 0)
    arrived = torch.stack([world.state.arrived, *(world.step(silent(world.state)).record.arrived for _ in range(45))])
    totals = arrived.sum(-1) / 2
    assert torch.allclose(totals[1:], totals[:-1] % 40 + 1)
    assert len(set(totals[0].tolist())) > 1
    assert (arrived.argmax(-1) == (totals - 1).round() % 10).all()
    check_problem(problem(arrivals="trace", trace=str(file)))


def test_a_file_that_cannot_be_used_is_named(tmp_path):
    file = tmp_path / "trace.csv"
    file.write_text("slot,link,bits\n0,11,5")
    config = load_config(["problem=traffic", "traffic.arrivals=trace", f"traffic.trace={file}"])
    with pytest.raises(ConfigError, match=r"traffic\.trace: .*link 11 of packet 0 does not exist"):
        check_files(config)
    file.write_text("order,code_rate\n4,0.5\n2,0.5")
    config = load_config(["problem=traffic", f"traffic.mcs_table={file}"])
    with pytest.raises(ConfigError, match=r"traffic\.mcs_table: .*rising order"):
        check_files(config)


@pytest.mark.parametrize("asked", ["transmission=mcs", "transmission=shannon"])
def test_a_table_that_cannot_be_used_is_named_by_its_key_wherever_it_is_read_first(tmp_path, asked):
    file = tmp_path / "table.csv"
    file.write_text("order,code_rate\n4,0.5\n2,0.5")
    with pytest.raises(ConfigError, match=r"^config error: traffic\.mcs_table: .*rising order"):
        train_command(["conf=traffic", f"traffic.{asked}", f"traffic.mcs_table={file}", f"run_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_a_trace_is_named_by_its_key_where_cells_begin(tmp_path):
    with pytest.raises(ConfigError, match=r"traffic\.trace: .*none\.csv cannot be read"):
        problem(arrivals="trace", trace=str(tmp_path / "none.csv")).reset(2, torch.Generator())


def test_blocks_of_a_known_channel_arrive_and_of_a_stale_one_are_lost():
    """With known channels a scheme loses less than a tenth; the channel of ten slots ago promises what is not there."""
    lost = []
    for delay in (0, 10):
        cells = problem(transmission="mcs", csi_delay=delay, arrivals="full_buffer").endless()
        world = Simulation(cells, 16, 0)
        for _ in range(12):
            world.step(full_power(world.state))
        state = world.state
        decision = rzf(state.known), full_uplink_power(state.known)
        promised = cells.cells.transmission.table.carried(
            cells.cells.transmission.table.choose(sinr_of(rates_of(state.known, *decision).squeeze(1)))
        )
        sent = cells.step(state, decision, torch.Generator().manual_seed(0)).record.delays.sum(-1)
        assert bool(((sent < DUST) | torch.isclose(sent, promised, atol=1e-3)).all())
        lost.append(float(((sent < DUST) & (promised > 0)).float().sum() / (promised > 0).sum()))
    assert lost[0] < 0.1
    assert lost[1] > 0.15


def test_schemes_carry_less_than_shannon_and_their_mean_is_what_blocks_bring():
    shannon, schemes = problem(arrivals="full_buffer"), problem(arrivals="full_buffer", transmission="mcs")
    state = shannon.reset(4, torch.Generator().manual_seed(0))
    decision = full_power(state)
    mean = schemes.measure(state, decision)
    assert bool((mean <= shannon.measure(state, decision) + 1e-4).all())
    generator = torch.Generator().manual_seed(1)
    drawn = torch.stack([schemes.step(state, decision, generator).utility for _ in range(200)]).mean(0)
    assert torch.allclose(drawn, mean, atol=0.35)


def test_acknowledgements_tell_of_the_bits_that_arrived():
    world = Simulation(problem(feedback="ack"), 4, 0)
    step = world.step(full_power(world.state))
    assert torch.allclose(step.utility.squeeze(1), step.record.delays.sum(-1))


def test_the_designed_reward_of_acknowledgements_is_beyond_what_rzf_at_full_power_serves():
    """So that of RZF itself is 0, of links that it empties and of others."""
    cells = problem(feedback="ack", load=3.0)
    world = Simulation(cells, 4, 0)
    for _ in range(3):
        seen = cells.observe(world.state)
        step = world.step(full_power(world.state))
        assert torch.allclose(designed_reward(step.utility, seen), torch.zeros(4, 1, 10), atol=1e-3)
    assert bool((step.record.backlog > 1).any())
    assert bool((step.record.backlog < DUST).any())


def test_power_and_a_rate_below_the_minimum_have_their_price():
    state = problem().reset(3, torch.Generator().manual_seed(0))
    plain, energy = problem(), problem(energy_price=2.0)
    decision = full_power(state)
    spent = plain.measure(state, decision) - energy.measure(state, decision)
    radiated = 0.01 * (10**2.6 + 4 * 10**2.3)  # mJ: 26 dBm and four times 23 dBm for 10 ms
    assert torch.allclose(spent.sum(-1), torch.full((3, 1), 2 * radiated), rtol=1e-3)
    minimum = problem(minimum_rate=50.0, minimum_price=3.0, window=1)
    short = plain.measure(state, silent(state)) - minimum.measure(state, silent(state))
    assert torch.allclose(short.squeeze(1), 150.0 * (state.queues > 0), rtol=1e-4)


def test_more_load_waits_longer_and_the_silent_wait_longest():
    delays = [EpisodeEvaluation(problem(load=load), 8, 0).judge(full_power)["mean_delay"] for load in (0.3, 1.0)]
    assert delays[0] < delays[1]
    assert EpisodeEvaluation(problem(), 8, 0).judge(silent)["mean_delay"] > delays[1]


def test_every_scheduler_keeps_the_limits_and_serves():
    cells = problem(downlink_deadline=4, uplink_deadline=8, minimum_rate=1.0)
    state = cells.reset(2, torch.Generator().manual_seed(0))
    references, idle = cells.references(), cells.measure(state, silent(state)).sum()
    named = {"maxweight", "maxweight_sqrt", "drift", "proportional_fair", "round_robin"}
    assert references.keys() == named | {"m_lwdf", "edf", "maxweight_virtual", "drift_virtual"}
    assert problem().references().keys() == named
    for policy in references.values():
        decision = policy(state)
        assert bool(cells.feasible(decision).all())
        assert float(cells.measure(state, decision).sum()) > float(idle)


@pytest.mark.parametrize("name", ["maxweight", "drift"])
def test_a_link_below_its_minimum_rate_is_served_before_the_others(name):
    cells = problem(minimum_rate=1.0, arrivals="full_buffer")
    state = cells.reset(8, torch.Generator().manual_seed(0))
    poor = torch.arange(10) == 2
    state = replace(state, bits=state.bits * 0.1, throughput=torch.where(poor, 0.0, 3.0).expand(8, 10))
    plain, fair = (cells.measure(state, cells.references()[one](state)) for one in (name, f"{name}_virtual"))
    assert bool((fair[..., 2] >= plain[..., 2] - 1e-3).all())
    assert float((fair - plain)[..., 2].mean()) > 0.5


@pytest.mark.parametrize("kind", ["on-off", "prices", "schemes"])
def test_refining_a_decision_keeps_the_limits_and_never_costs_utility(kind):
    cells = problem(load=2.0, **KINDS[kind])
    with torch.inference_mode():
        seen = cells.observe(cells.reset(4, torch.Generator().manual_seed(0)))
        start = cells.decode(seen, torch.zeros(4, 1, cells.layout.size))
        refined = cells.refine(seen, start, 10)
    before, after = (cells.utility(seen, decision).sum((1, 2)) for decision in (start, refined))
    assert bool(cells.feasible(refined).all())
    assert bool((after >= before - 1e-3).all())
    assert float((after - before).mean()) > 0.1


def test_the_report_names_both_sections_and_the_unit_of_every_metric():
    cells = TrafficProblem(TrafficConfig(load=0.7), replace(CELL, episode_length=2))
    evaluation = EpisodeEvaluation(cells, 2, 0)
    evaluation.score("mine", full_power)
    report = evaluation.report()
    assert (report["scenario"]["load"], report["scenario"]["episode_length"]) == (0.7, 2)
    assert report["policies"]["mine"].keys() <= report["units"].keys()
    assert set(report["shown"]) <= report["units"].keys()


def test_no_policy_waits_less_than_links_without_each_other_would():
    cells = problem()
    evaluation = EpisodeEvaluation(cells, 4, 0, references=False)
    bound = evaluation.report()["least_delay"]
    assert 0 < bound < evaluation.judge(full_power)["mean_delay"]
    alone = TrafficProblem(TrafficConfig(downlink_rate=0.0), replace(CELL, uplink_users=1))  # one link with traffic
    reached = EpisodeEvaluation(alone, 4, 0, references=False)
    best = reached.judge(lambda state: (0 * full_power(state)[0], full_power(state)[1]))["mean_delay"]
    assert best == pytest.approx(reached.report()["least_delay"], rel=1e-3)
    assert "least_delay" not in EpisodeEvaluation(problem(uplink_deadline=3), 4, 0, references=False).report()


def test_its_keys_stand_in_two_sections():
    config = load_config(["problem=traffic", "traffic.load=0.5", "scenario.downlink_users=3"])
    check_config(config)
    made = make_problems(config)[0]
    assert (made.config.load, made.layout.counts) == (0.5, (3, 4))


def test_a_cell_of_other_size_has_as_much_traffic():
    config = load_config(["problem=traffic", "scenario.loads=2+2,8+8", "traffic.load_low=1", "traffic.load_high=1"])
    check_config(config)
    problems = make_problems(config)
    assert [one.layout.counts for one in problems] == [(6, 4), (2, 2), (8, 8)]
    offered = [one.reset(2, torch.Generator().manual_seed(0)).sources.rate.sum(-1) for one in problems]
    assert torch.allclose(offered[0], offered[1])
    assert torch.allclose(offered[0], offered[2])


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("traffic.load_low=2", r"traffic\.load_low \(2\) must be at most traffic\.load_high \(1\.3\)"),
        ("traffic.downlink_deadline=0", r"traffic\.downlink_deadline cannot be 0"),
        ("traffic.uplink_deadline=32", r"traffic\.uplink_deadline \(32\) must be below traffic\.ages \(32\)"),
        ("traffic.arrivals=trace", r"traffic\.arrivals=trace, but traffic\.trace=null; name the file"),
        ("traffic.trace=a.csv", r"set traffic\.arrivals=trace, or traffic\.trace=null"),
        ("traffic.on_share=0.95", r"traffic\.burst=5 is too short for traffic\.on_share=0\.95"),
        ("scenario.minimum_distance=200", r"scenario\.minimum_distance \(200\) must be below scenario\.cell_radius"),
        ("scenario.objective=max_min", r"scenario\.objective=max_min is of the rates of one slot"),
        ("scenario.feedback=scalar", r"set traffic\.feedback=scalar instead"),
    ],
)
def test_what_does_not_fit_together_is_refused(asked, told):
    with pytest.raises(ConfigError, match=told):
        check_config(load_config(["problem=traffic", asked]))

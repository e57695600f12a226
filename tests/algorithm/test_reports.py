"""Which slots a report is of, in a ring that wraps, against lists; what an agent makes of reports."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.capturable import Waits
from d2rl.algorithm.checks import check_run
from d2rl.algorithm.diagnostics import reward_lead
from d2rl.algorithm.replay import ReplayBuffer
from d2rl.algorithm.reports import ReportWindows, beyond_baselines
from d2rl.common.errors import ConfigError, InputError
from d2rl.problems.base import Layout, Observation, Transition
from d2rl.problems.traffic.problem import TrafficProblem
from d2rl.runs.run_directory import RunDirectory
from d2rl.training.memory import check_memory
from d2rl.training.train import train

CELLS, SLOTS = 5, 3
TRAFFIC = (
    *("problem=traffic", "traffic.feedback=report", "traffic.report_slots=2", "reward.case=designed_gdm"),
    *("scenario.episode_length=7", "action.candidates=1", "stages.action=null", "reward.guard=-1"),
)


def slot(time: int, utility: list[float]) -> Transition:
    """A slot of all cells: an observation says which slot and cell it is, its baseline is 1."""
    nodes = torch.tensor([[time, cell] for cell in range(CELLS)]).float().unsqueeze(1)
    ones = torch.ones(CELLS, 1)
    seen = Observation(nodes, nodes.unsqueeze(1), ones, ones, None, Layout((1,), (1,)))
    numbers = torch.tensor(utility).view(CELLS, 1, 1)
    return Transition(seen, numbers, numbers.unsqueeze(-1), numbers)


def told(reported: float | list[float]) -> SimpleNamespace:
    numbers = reported if isinstance(reported, list) else [reported] * CELLS
    return SimpleNamespace(reported=torch.tensor(numbers), utility=torch.zeros(CELLS, 1, 1))


def filled(slots: int, capacity: int = 40, until: ReportWindows | None = None, since: int = 0) -> ReportWindows:
    """Windows after so many slots; the report that comes in slot t is 10 t of each cell, plus its number."""
    windows = until or ReportWindows(ReplayBuffer(capacity), SLOTS, CELLS)
    for time in range(since, since + slots):
        due = (time + 1) % SLOTS == 0
        windows.replay.add(slot(time, [(10.0 * time + cell) * due for cell in range(CELLS)]))
        windows.add(told(float(SLOTS * due)))
    return windows


def drawn(windows: ReportWindows, count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Slot and cell of every row [count, n], and its utility [count, n]."""
    batch = windows.sample(count, torch.Generator().manual_seed(0))
    return batch.observation.nodes.view(count, SLOTS, 2), batch.utility.view(count, SLOTS)


@pytest.mark.parametrize(("slots", "first"), [(3, 0), (5, 0), (8, 0), (11, 3), (20, 12)])
def test_windows_are_whole_and_carry_their_report(slots, first):
    """40 rows hold 8 slots of 5 cells: older windows are gone, also those that lost their first slot alone."""
    windows = filled(slots)
    rows, utility = drawn(windows)
    times = rows[:, :, 0]
    assert (times.diff(dim=1) == 1).all()
    assert (times[:, 0] % SLOTS == 0).all()
    assert set(times[:, 0].tolist()) == set(map(float, range(first, slots - SLOTS + 1, SLOTS)))
    assert (rows[:, :, 1].diff(dim=1) == 0).all()
    report = 10 * times[:, -1] + rows[:, 0, 1]
    torch.testing.assert_close(utility, (report / SLOTS).unsqueeze(1).expand(-1, SLOTS))


def test_reports_are_taken_beyond_the_baselines_of_all_their_slots():
    windows = filled(6)
    batch = windows.sample(50, torch.Generator().manual_seed(0))
    last = batch.observation.nodes.view(50, SLOTS, 2)[:, -1]
    torch.testing.assert_close(beyond_baselines(batch, SLOTS), (10 * last[:, 0] + last[:, 1] - SLOTS).unsqueeze(1))


def test_there_is_nothing_to_learn_from_before_the_first_report():
    assert not filled(2).ready
    assert filled(3).ready


def test_some_cells_are_kept_to_judge_by():
    windows = filled(9)
    learned = drawn(windows)[0][:, :, 1]
    judged = windows.judged(20, torch.Generator().manual_seed(0)).observation.nodes.view(20, windows.judges, SLOTS, 2)
    assert set(learned.flatten().tolist()) == {0.0, 1.0, 2.0}
    assert set(judged[..., 1].flatten().tolist()) == {3.0, 4.0}
    assert (judged[:, 0, :, 0] == judged[:, 1, :, 0]).all()  # of one time


def test_single_slots_are_drawn_of_whole_windows_alone():
    rows = filled(5).sample_slots(100, torch.Generator().manual_seed(0)).observation.nodes
    assert set(rows[..., 0].flatten().tolist()) == {0.0, 1.0, 2.0}
    assert set(rows[..., 1].flatten().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}


def test_windows_saved_and_loaded_go_on():
    one, two = filled(10), ReportWindows(ReplayBuffer(40), SLOTS, CELLS)
    two.replay.load_state_dict(one.replay.state_dict(), torch.device("cpu"))
    two.load_state_dict(one.state_dict())
    first, second = (drawn(filled(2, until=windows, since=10)) for windows in (one, two))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_window_without_its_report_is_named():
    windows = filled(5)
    windows.check()
    windows.replay.add(slot(5, [0.0] * CELLS))
    windows.add(told([3.0, 3.0, 0.0, 3.0, 3.0]))
    with pytest.raises(InputError, match=r"1 window of 3 slots came without .* reward\.generated=false"):
        windows.check()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_report_that_is_not_finite_ends_a_training_with_the_one_message_that_names_it(
    tiny, tmp_path, monkeypatch, caplog, value
):
    measured, slots = TrafficProblem.step, []

    def spoilt(self, *given):
        step = measured(self, *given)
        slots.append(step)
        if len(slots) != 6:  # the third report
            return step
        utility = step.utility.clone()
        utility[1] = value
        return replace(step, utility=utility)

    monkeypatch.setattr(TrafficProblem, "step", spoilt)
    config = tiny(*TRAFFIC, "trainer.updates_per_epoch=8", "stages.reward=0", f"run_dir={tmp_path / 'run'}")
    run = RunDirectory.create(config, "test")
    with pytest.raises(InputError, match=r"^input error: 1 report held NaN or infinite values, .* Step\.utility"):
        train(config, run)
    assert not any("not finite" in record.getMessage() for record in caplog.records)


def test_a_replay_that_holds_no_two_windows_is_refused(tiny, fit):
    """When a run is checked, and when an agent that was made without that begins."""
    given = (*TRAFFIC, "traffic.report_slots=6", "trainer.num_envs=4", "ddpg.batch=8", "ddpg.critic_batch=8")
    message = r"ddpg\.replay=47 is too small .* 6 slots of 4 cells.* set ddpg\.replay to 48 at least"
    with pytest.raises(ConfigError, match=message):
        check_run(tiny(*given, "ddpg.replay=47"))
    with pytest.raises(ConfigError, match=message):
        fit(D2RL(tiny(*given, "ddpg.replay=47")))
    check_run(tiny(*given, "ddpg.replay=48"))


# ------------------------------------------------------------------ the agent


@pytest.mark.parametrize("explorer", ["renpnn", "regression"])
@pytest.mark.parametrize("case", ["raw_gdm", "designed_gdm", "each_gdm"])
def test_an_agent_learns_from_rewards_of_links_that_are_not_told(tiny, fit, case, explorer):
    agent = D2RL(tiny(*TRAFFIC, f"reward.case={case}", f"reward.explorer={explorer}"))
    agent.stages["reward"] = True
    before = [one.clone() for one in agent.renpnn.parameters()]
    fit(agent)
    assert agent.skipped_steps() == 0
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.renpnn.parameters(), strict=True))
    batch = agent.draw(16)
    assert agent.reward_of(batch).shape == (16, 1, 5)
    assert "generated" not in agent.replay.storage
    agent.fallback = True  # equal shares instead
    share = agent.reward_of(agent.draw(16))
    spread = share.std(-1) if case != "designed_gdm" else torch.zeros(1)
    torch.testing.assert_close(spread, torch.zeros_like(spread), atol=1e-6, rtol=0)


def test_rewards_are_those_that_renpnn_would_generate_now(tiny, fit):
    agent = D2RL(tiny(*TRAFFIC, "reward.explorer=regression", "reward.case=raw_gdm"))
    agent.stages["reward"] = True
    fit(agent)
    batch = agent.draw(8)
    before = agent.reward_of(batch)
    agent.renpnn.centre += 10.0
    more = agent.case_reward(torch.full_like(before, 10.0), batch.observation)
    torch.testing.assert_close(agent.reward_of(batch), before + more)


def test_reports_of_a_generator_that_lies_are_ranked_the_other_way_round(tiny, fit):
    """What the guard looks at: the sums of cells that RENPNN does not learn from."""
    change = (
        "reward.rate=2e-2",
        "reward.updates=4",
        "trainer.updates_per_epoch=40",
        "trainer.num_envs=32",
        "ddpg.replay=2048",
    )
    agent = D2RL(tiny(*TRAFFIC, "reward.explorer=regression", *change))
    fit(agent)
    found = []
    for _ in range(2):
        agent.means.collect()
        for _ in range(20):
            agent.judge_split()
        found.append(agent.means.current("renpnn/rank_correlation"))
        agent.renpnn.spread.neg_()
    assert found[0] > 0.3
    assert found[1] == pytest.approx(-found[0], abs=0.3)


def test_a_resumed_run_equals_an_uninterrupted_one(tiny, fit, tmp_path):
    """Stopped between two reports: every bit of the networks."""
    config, agents = tiny(*TRAFFIC, "traffic.report_slots=4"), []
    for epochs, checkpoint in ((2, None), (1, None), (2, tmp_path / "one.ckpt")):
        agents.append(D2RL(config))
        agents[-1].stages["reward"] = True
        trainer = fit(agents[-1], epochs=epochs, checkpoint=checkpoint)
        if epochs == 1:
            assert agents[-1].world.windows.waiting
            trainer.save_checkpoint(tmp_path / "one.ckpt")
    whole, first, resumed = (agent.state_dict() for agent in agents)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert not all(torch.equal(tensor, first[name]) for name, tensor in whole.items())


def test_the_lead_on_reports_is_that_of_sums_over_whole_windows(tiny, fit, monkeypatch):
    """A critic that says the share that every slot was given knows the reports, RENPNN their opposite."""
    agent = D2RL(tiny(*TRAFFIC, "stages.reward=9"))
    fit(agent, epochs=2)

    def shares(seen, view):
        kept = agent.replay.storage
        same = (kept["view"].flatten(1).unsqueeze(0) == view.flatten(1).unsqueeze(1)).all(-1).int().argmax(1)
        return kept["utility"][same].sum(-1)

    def denied(seen, view, samples, generator):
        beyond = shares(seen, view) - seen.baseline.sum(-1, keepdim=True)
        return -beyond.unsqueeze(-1).expand(-1, -1, view.shape[2]) / view.shape[2]

    scale = agent.config.ddpg.reward_scale
    monkeypatch.setattr(agent, "critic_value", lambda seen, view: shares(seen, view) / scale)
    monkeypatch.setattr(agent.renpnn, "generate", denied)
    assert reward_lead(agent).item() == pytest.approx(-2, abs=1e-4)
    monkeypatch.setattr(agent.renpnn, "generate", lambda *given: -denied(*given))
    assert reward_lead(agent).item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["trainer.num_envs=3"], r"trainer\.num_envs of 4 at least .* got 3"),
        (["reward.share_reports=true"], r"set ddpg\.steps=1 and reward\.share_reports=false"),
    ],
)
def test_what_does_not_fit_together_is_refused(tiny, asked, told):
    with pytest.raises(ConfigError, match=told):
        D2RL(tiny(*TRAFFIC, *asked))


def test_a_replay_without_room_for_reports_ends_a_run_before_it_begins(tiny, fit):
    with pytest.raises(ConfigError, match=r"set ddpg\.replay to 32"):
        fit(D2RL(tiny(*TRAFFIC, "ddpg.replay=31")))


def test_the_memory_of_a_run_on_reports_is_told(tiny):
    """It is measured with a replay of a single slot."""
    assert "replay" in check_memory(tiny(*TRAFFIC), torch.device("cpu"))


@pytest.mark.parametrize("explorer", ["renpnn", "regression"])
def test_learning_from_reports_never_waits_for_the_device(tiny, fit, explorer):
    found = []

    def watch(trainer, agent) -> None:
        if found:
            return
        with Waits() as waits:
            agent.training_step(0, 0)
        found.append(waits.found)

    agent = D2RL(tiny(*TRAFFIC, f"reward.explorer={explorer}"))
    agent.stages["reward"] = True
    fit(agent, watch)
    assert found == [[]]

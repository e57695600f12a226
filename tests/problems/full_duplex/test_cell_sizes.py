"""Training over several loads: which world is visited when, what a policy decides there, what is refused."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import lightning as L
import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.world import World, make_worlds
from d2rl.common.errors import ConfigError
from d2rl.config.defaults import FullDuplexConfig
from d2rl.config.load import from_mapping, to_yaml
from d2rl.envs import FullDuplexEnv
from d2rl.problems import check_config, make_problems
from d2rl.problems.base import Observation
from d2rl.problems.full_duplex.cell_sizes import cells_of
from d2rl.problems.full_duplex.simulator import evaluation_states
from d2rl.training.footprint import footprint
from d2rl.training.memory import replay_bytes
from d2rl.wireless.bank_file import save_bank
from d2rl.wireless.channel_bank import ChannelBank

LOADS = "scenario.loads=2+2,6+5"  # beside the 3 + 2 users of the tiny cell
SIZES = [(3, 2), (2, 2), (6, 5)]
EVERYTHING = (
    *("stages.state=0", "reward.case=designed_gdm", "scenario.csi_error=0.1", "ddpg.gamma=0.5"),
    *("scenario.head=switching", "action.objective=mixed", "trainer.epochs=4"),
)


def build(config) -> D2RL:
    L.seed_everything(config.seed, verbose=False)
    return D2RL(config)


def size_of(world: World) -> tuple[int, int]:
    return world.state.channels.downlink_users, world.state.channels.uplink_users


def differences(first: Any, second: Any, name: str = "") -> list[str]:
    if isinstance(first, dict):
        keys = [f"{name}.{key}" for key in first.keys() ^ second.keys()]
        return keys + [d for key in first.keys() & second.keys() for d in differences(first[key], second[key], key)]
    if isinstance(first, list):
        return [d for n, pair in enumerate(zip(first, second, strict=True)) for d in differences(*pair, f"{name}{n}")]
    same = torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second
    return [] if same else [name]


# ------------------------------------------------------------------ the cells


def test_loads_that_come_to_the_same_cell_are_visited_once():
    cells = cells_of(FullDuplexConfig(transmit_antennas=4, receive_antennas=4, loads="8+8,8+8@4,6+4@4,2+2"))
    assert [(c.downlink_users, c.uplink_users, c.transmit_antennas) for c in cells] == [(6, 4, 4), (8, 8, 4), (2, 2, 4)]


def test_the_scenario_comes_first_and_each_load_changes_users_and_perhaps_antennas():
    cells = cells_of(FullDuplexConfig(loads=" 2+2, 8 + 3,6+4@4", cell_radius=70.0))
    assert [(c.downlink_users, c.uplink_users) for c in cells] == [(6, 4), (2, 2), (8, 3), (6, 4)]
    assert [(c.transmit_antennas, c.receive_antennas) for c in cells] == [(8, 8), (8, 8), (8, 8), (4, 4)]
    assert {(c.cell_radius, c.loads) for c in cells} == {(70.0, None)}


def test_the_own_load_may_stand_among_the_loads_and_still_comes_first():
    cells = cells_of(FullDuplexConfig(loads="2+2,6+4,6+4@8,8+8"))
    assert [(c.downlink_users, c.uplink_users) for c in cells] == [(6, 4), (2, 2), (8, 8)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("8", "'8' is no load; write K_D[+]K_U"),
        ("8+8,", "'' is no load"),
        ("8+8;2+2", "is no load"),
        ("8+-2", "is no load"),
        ("8+2.5", "is no load"),
        ("8+8@", "is no load"),
        ("0+0", "0[+]0 is out of range; users are 0 to 1024 in each direction, one at least, and antennas 1 to 1024"),
        ("2+1025", "is out of range"),
        ("2+" + "1" * 5000, "is no load"),
        ("2+2@0", "is out of range"),
        ("2+2,4+4,2+2", "2[+]2 is there twice"),
    ],
)
def test_a_text_that_is_no_list_of_other_loads_is_refused(tiny, text, reason):
    with pytest.raises(ConfigError, match=f"scenario.loads={text.replace('+', '[+]')}.*{reason}"):
        check_config(tiny(f"scenario.loads={text}"))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("network.kind=mlp",), "network.kind=mlp is built for one number of users; network.kind=link_graph"),
        (("scenario.head=beamforming",), "scenario.head=beamforming reads a beam off its user alone"),
        (("scenario.channel_bank=bank.pt",), "all states of scenario.channel_bank=bank.pt are of one load"),
        (("scenario.stored_states=50",), "scenario.stored_states=50 asks for scarce states of one load"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_cannot_serve_several_loads_is_refused_with_the_reason(tiny, overrides, reason):
    with pytest.raises(ConfigError, match=reason):
        check_config(tiny(LOADS, *overrides))
    check_config(tiny(LOADS))


def test_other_antennas_are_refused_where_state_exploration_is_tied_to_their_number(tiny):
    with pytest.raises(
        ConfigError, match=r"has a cell of 8 antennas, but SENPNN \(stages.state=1\) is built for 4 \+ 4"
    ):
        check_config(tiny("scenario.loads=2+2,2+2@8", "stages.state=1"))
    check_config(tiny("scenario.loads=2+2@4", "stages.state=1"))
    check_config(tiny("scenario.loads=2+2@8"))


def test_loads_stand_in_the_configuration_that_a_run_keeps(tiny, tmp_path):
    config = tiny(LOADS)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert tiny(f"conf={tmp_path / 'config.yaml'}").scenario.loads == config.scenario.loads == "2+2,6+5"
    assert from_mapping({"scenario": {"downlink_users": 3}}).scenario.loads is None  # of a checkpoint of before


# ------------------------------------------------------------------ visits


def test_each_step_stays_in_one_world_and_the_next_takes_the_next(tiny, fit):
    agent, seen = build(tiny(LOADS, "trainer.updates_per_epoch=14")), []
    interact, learn = agent.interact, agent.learn
    agent.interact = lambda: (seen.append(size_of(agent.world)), interact())[1]
    agent.learn = lambda: (seen.append(size_of(agent.world)), learn())[1]
    fit(agent)
    assert seen == [size for visit in [*SIZES, *SIZES, SIZES[0]] for size in [visit] * 4]
    assert [world.state.slot for world in agent.worlds] == [6, 4, 4]
    assert [len(world.replay) for world in agent.worlds] == [48, 32, 32]
    for world, size in zip(agent.worlds, SIZES, strict=True):
        assert world.replay.storage["utility"].shape[-1] == sum(size)


def test_every_load_moves_the_policy(tiny, fit):
    agent, weights = build(tiny(LOADS, "trainer.updates_per_epoch=8")), []
    agent.stages["action"] = True
    fit(agent, lambda _, agent: weights.append(torch.cat([p.detach().flatten() for p in agent.aenpnn.parameters()])))
    assert len(weights) == 4
    assert all(not torch.equal(*pair) for pair in pairwise(weights))


def test_a_policy_trained_on_several_loads_can_decide_on_a_bank_of_one(tiny, tmp_path):
    config = tiny(LOADS)
    agent = build(config)
    state = FullDuplexEnv(config.scenario, 8, 0).state
    save_bank(ChannelBank(state.channels, state.gains, state.weights), tmp_path / "bank.pt")
    other = tiny(LOADS, f"scenario.channel_bank={tmp_path / 'bank.pt'}", "trainer.num_envs=2")
    served = D2RL(other)
    served.load_state_dict(agent.state_dict())
    assert len(served.worlds) == 1


def worlds_of(config, branch: str = "") -> list[World]:
    return make_worlds(make_problems(config), config, branch=branch)


def test_worlds_draw_random_numbers_of_their_own(tiny):
    first, second, third = worlds_of(tiny("scenario.loads=3+2@8,2+2"))
    assert not torch.equal(first.state.positions.downlink, second.state.positions.downlink)
    assert not torch.equal(first.state.positions.uplink, third.state.positions.uplink)
    again = worlds_of(tiny("scenario.loads=3+2@8,2+2"), branch="rank 1 of 2")
    for one, other in zip((first, second, third), again, strict=True):
        assert not torch.equal(one.state.positions.downlink, other.state.positions.downlink)


@pytest.mark.parametrize("action_stage", [False, True], ids=["actor", "aenpnn"])
def test_one_policy_decides_validly_at_every_load(tiny, fit, action_stage):
    agent = build(tiny("scenario.loads=2+2,6+5,5+1@8", "scenario.head=switching"))
    agent.stages["action"] = action_stage
    fit(agent, epochs=2)
    for problem in agent.problems:
        cell, observation = problem.config, problem.observe(evaluation_states(problem.config, 8, seed=0))
        action = agent.propose(observation, 2, torch.Generator().manual_seed(0))
        precoder, power = problem.decode(observation, action)
        assert precoder.shape == (16, cell.transmit_antennas, cell.downlink_users)
        assert power.shape == (16, cell.uplink_users)
        assert (precoder.abs().square().sum((-2, -1)) <= 1 + 1e-5).all()
        assert ((power >= 0) & (power <= 1)).all()


def test_designed_rewards_have_one_unit_at_every_load(tiny):
    """A rate beyond the reference counts alike however many links there are, since a critic sees a link alone."""
    agent = build(tiny(LOADS, "reward.case=designed"))
    rewards = []
    for agent.visited, links in enumerate((5, 4, 11)):
        ones = torch.ones(1, links)
        observation = Observation(ones, ones, ones, ones, None, agent.world.problem.layout)
        rewards.append(agent.case_reward(torch.full((1, 1, links), 3.0), observation))
        assert rewards[-1].shape == (1, 1, links)
    for other in rewards[1:]:
        torch.testing.assert_close(rewards[0][0, 0, :1], other[0, 0, :1])


# ------------------------------------------------------------------ the same bits


def trained(tiny, fit, *overrides: str) -> tuple[D2RL, dict[str, Any]]:
    agent, checkpoint = build(tiny(*EVERYTHING, "trainer.updates_per_epoch=6", *overrides)), {}
    agent.stages, agent.chi = {"action": True, "reward": True, "state": True}, 0.5
    fit(agent)
    agent.on_save_checkpoint(checkpoint)
    return agent, checkpoint


def test_a_checkpoint_holds_every_world(tiny, fit):
    agent, checkpoint = trained(tiny, fit, LOADS)
    (own,) = checkpoint["d2rl"]["ranks"]
    assert len(own["worlds"]) == 3
    for world, saved in zip(agent.worlds, own["worlds"], strict=True):
        assert differences(world.state_dict(), saved) == []


def test_the_own_world_does_not_depend_on_the_loads(tiny):
    """With or without loads the first world draws the same cells."""
    alone, several = build(tiny()), build(tiny(LOADS))
    for _ in range(12):
        assert differences(alone.world.state.tensors(), several.world.state.tensors()) == []
        for world in (alone.world, several.world):
            observation = world.problem.observe(world.state)
            world.step(world.problem.decode(observation, torch.zeros(8, 1, world.problem.layout.size)))


# ------------------------------------------------------------------ memory


def test_the_memory_check_counts_the_replay_of_every_load(tiny, fit):
    agent = build(tiny(LOADS, "ddpg.replay=16", "trainer.epochs=2", "trainer.updates_per_epoch=12"))
    fit(agent)
    taken = 0
    for world in agent.worlds:
        assert len(world.replay) == 16
        taken += sum(tensor.numel() * tensor.element_size() for tensor in world.replay.storage.values())
    assert replay_bytes(agent.config) == taken


def test_the_footprint_is_that_of_the_largest_load(tiny):
    alone, small, large = (
        footprint(tiny(*loads)) for loads in ((), ("scenario.loads=2+2",), ("scenario.loads=2+2,40+40",))
    )
    for keys in alone:
        training = keys.startswith(("ddpg", "trainer"))
        assert small[keys] == alone[keys]
        assert large[keys] > 50 * alone[keys] if training else large[keys] == alone[keys]

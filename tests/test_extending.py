"""A problem, a reward case and an explorer of the reader's own train without a change to the package."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass

import pytest
import torch

from d2rl.algorithm.checks import check_algorithm
from d2rl.algorithm.explorers.action import AENPNN
from d2rl.algorithm.rewards import CASES, Case
from d2rl.common.errors import ConfigError
from d2rl.common.tensor_struct import TensorStruct
from d2rl.config.defaults import option
from d2rl.problems import check_config, load_config, make_problems
from d2rl.problems.base import Layout, Observation, Sizes, Step
from d2rl.runs.run_directory import RunDirectory
from d2rl.testing import check_problem
from d2rl.training.train import train

SHORT = ["trainer.epochs=1", "trainer.updates_per_epoch=4", "trainer.updates_per_step=2", "trainer.num_envs=4"]
SHORT += [
    "trainer.updates_per_slot=2",
    "ddpg.warmup_updates=1",
    "ddpg.batch=8",
    "ddpg.critic_batch=8",
    "ddpg.replay=64",
]
SHORT += [
    "network.width=8",
    "evaluation.drops=4",
    "logger.mode=disabled",
    "trainer.progress=false",
    "stages.state=null",
]


@dataclass
class TargetSettings:
    """A point to be hit."""

    users: int = option(3, "points", low=1)
    episode_length: int = option(4, "slots", low=1)


@dataclass(frozen=True)
class TargetState(TensorStruct):
    place: torch.Tensor  # [B, K]
    slot: int = 0


class TargetProblem:
    """The nearer the action is to the place, the better; the place moves towards the action."""

    name, section, settings, exogenous = "target", "target", TargetSettings, False

    def __init__(self, config):
        self.config = config
        self.layout = Layout((config.users,), (1,))
        self.sizes = Sizes(nodes=1, edges=1, view=1, flat=config.users)

    @classmethod
    def variants(cls, config, seed):
        return [cls(config)]

    @classmethod
    def check(cls, config):
        """Nothing that does not fit together."""

    def reset(self, batch, generator):
        return TargetState(torch.rand(batch, self.config.users, generator=generator) * 2 - 1)

    def step(self, state, decision, generator):
        utility = -(decision - state.place).square().unsqueeze(1)
        moved = TargetState(state.place + 0.1 * (decision - state.place), state.slot + 1)
        ends = moved.slot == self.config.episode_length
        cut = torch.full((state.batch,), ends)
        return Step(utility, moved, self.reset(state.batch, generator) if ends else moved, cut, torch.zeros_like(cut))

    def observe(self, state):
        nodes, ones = state.place.unsqueeze(-1), torch.ones_like(state.place)
        edges = (state.place.unsqueeze(-1) - state.place.unsqueeze(-2)).unsqueeze(-1)
        return Observation(nodes, edges, ones, torch.zeros_like(ones), None, self.layout)

    def decode(self, observation, action):
        return action.clamp(-1, 1).flatten(0, 1)

    def view(self, observation, action, decision=None):
        return action.unsqueeze(-1)

    def flat(self, observation):
        return observation.nodes.flatten(1)


class OtherExplorer(AENPNN):
    """An action explorer with a chain of its own."""

    built = 0

    @classmethod
    def build(cls, config, problem):
        cls.built += 1
        return super().build(config, problem)


@pytest.fixture
def outside(monkeypatch):
    """A module of the reader's own."""
    module = types.ModuleType("my_radio")
    module.TargetProblem, module.OtherExplorer = TargetProblem, OtherExplorer
    monkeypatch.setitem(sys.modules, "my_radio", module)


def trained(tmp_path, *arguments):
    config = load_config([*SHORT, f"run_dir={tmp_path / 'run'}", *arguments])
    check_config(config)
    return train(config, RunDirectory.create(config, "test"))


def test_a_problem_of_ones_own_conforms():
    check_problem(TargetProblem(TargetSettings()))


@pytest.mark.parametrize("stages", ["action", "actor"])
def test_a_problem_of_ones_own_trains(tmp_path, outside, stages):
    asked = ["problem=my_radio:TargetProblem", "target.users=2", "action.candidates=1", "ddpg.gamma=0.9"]
    off = ["stages.action=null", "stages.reward=null"] if stages == "actor" else ["reward.generated=true"]
    result = trained(tmp_path, *asked, *off)
    assert result.agent.problem.config.users == 2
    assert result.evaluation.judge is not None
    assert "return" in result.evaluation.judge(lambda state: state.place)
    assert result.agent.replay.storage["terminated"].dtype == torch.bool


def test_its_keys_are_checked_like_all_others(outside):
    with pytest.raises(ConfigError, match=r"target\.users cannot be 0"):
        load_config(["problem=my_radio:TargetProblem", "target.users=0"])
    with pytest.raises(ConfigError, match=r"scenario\.downlink_users is not a key"):
        load_config(["problem=my_radio:TargetProblem", "scenario.downlink_users=3"])


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["action.candidates=2"], r"action\.candidates=1"),
        (["ddpg.analytic=true"], r"ddpg\.analytic=false"),
        (["stages.state=0"], r"stages\.state=null"),
    ],
)
def test_what_a_problem_has_no_part_for_is_refused(tmp_path, outside, asked, told):
    base = ["problem=my_radio:TargetProblem", "action.candidates=1", "stages.action=0", "stages.reward=0"]
    with pytest.raises(ConfigError, match=told):
        trained(tmp_path, *base, *asked)


def test_a_problem_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="problem=riss is unknown; choose one of full_duplex"):
        load_config(["problem=riss"])
    with pytest.raises(ConfigError, match="problem=nowhere:Problem cannot be used: No module named 'nowhere'"):
        load_config(["problem=nowhere:Problem"])


@pytest.mark.parametrize(
    ("content", "told"),
    [("class Problem(:", "SyntaxError: "), ("\nnoise = 1 / 0", "ZeroDivisionError: division by zero")],
)
def test_a_mistake_in_a_problem_of_ones_own_is_named_with_its_place(tmp_path, monkeypatch, content, told):
    file = tmp_path / "mistaken.py"
    file.write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    line = 1 + content.count("\n")
    with pytest.raises(ConfigError, match="problem=mistaken:Problem cannot be used") as caught:
        load_config(["problem=mistaken:Problem"])
    assert told in str(caught.value)
    assert f"({file}, line {line})" in str(caught.value)


def test_a_reward_case_is_one_function_and_one_line(tmp_path, monkeypatch):
    def above_one_bit(utility, observation):
        return (utility > 1).float()

    monkeypatch.setitem(CASES, "above_one_bit", Case(above_one_bit, per_entity=True))
    agent = trained(tmp_path, "reward.case=above_one_bit", "action.candidates=2").agent
    batch = agent.replay.sample(8, torch.Generator().manual_seed(0))
    reward = agent.measured_reward(batch)
    assert reward.shape[-1] == 10
    assert torch.allclose(reward, (batch.utility > 1) * 10**0.5 / 10)


def test_an_unknown_reward_case_is_named():
    config = load_config(["reward.case=best"])
    with pytest.raises(ConfigError, match=r"reward\.case=best is unknown; choose one of raw, designed, each"):
        check_algorithm(config, make_problems(config)[0])


def test_an_explorer_of_ones_own_takes_the_place_of_another(tmp_path, outside):
    before = OtherExplorer.built
    agent = trained(tmp_path, "action.explorer=my_radio:OtherExplorer", "action.candidates=2").agent
    assert isinstance(agent.aenpnn, OtherExplorer)
    assert OtherExplorer.built > before

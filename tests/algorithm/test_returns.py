"""n-step returns and shares of reports against sums in plain Python, and their continuation."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from d2rl.algorithm.checks import check_algorithm
from d2rl.algorithm.returns import ReturnWindow, n_step_return, shared_report
from d2rl.common.errors import ConfigError
from d2rl.problems import load_config, make_problems
from d2rl.problems.base import Layout, Observation, Transition

LAYOUT = Layout((1,), (1,))


def seen(values):
    """Observations that hold a number each."""
    nodes = torch.tensor(values).view(-1, 1, 1)
    return Observation(nodes, nodes[..., None, :1], nodes[..., 0], nodes[..., 0], None, LAYOUT)


def slot(time, utility, ended=(False, False), terminated=(False, False), reported=None):
    """Two states that were at ``time`` and go on to the next one; the second is told apart by 100."""
    here, there = seen([time, 100.0 + time]), seen([time + 1, 101.0 + time])
    numbers = torch.tensor(utility).view(2, 1, 1)
    transition = Transition(
        here, numbers, numbers.unsqueeze(-1), numbers, following=there, terminated=torch.tensor(terminated)
    )
    step = SimpleNamespace(
        truncated=torch.tensor(ended),
        terminated=torch.tensor(terminated),
        reported=None if reported is None else torch.tensor(reported),
    )
    return transition, step


def window(length, combine=lambda slots: n_step_return(slots, 0.5)):
    return ReturnWindow(length, combine)


def test_one_slot_passes_as_it_is():
    transition, step = slot(0.0, [1.0, 2.0])
    assert window(1).add(transition, step) is transition


def test_rewards_are_discounted_to_the_state_n_slots_later():
    returns = window(3)
    rewards = [[1.0, 10.0], [2.0, 20.0], [4.0, 40.0], [8.0, 80.0]]
    done = [returns.add(*slot(float(time), one)) for time, one in enumerate(rewards)]
    assert done[:2] == [None, None]
    assert done[2].utility.flatten().tolist() == [1 + 1 + 1, 10 + 10 + 10]
    assert done[3].utility.flatten().tolist() == [2 + 2 + 2, 20 + 20 + 20]
    assert done[2].discount.tolist() == [0.125, 0.125]
    assert done[3].following.nodes.flatten().tolist() == [4.0, 104.0]
    assert done[3].observation.nodes.flatten().tolist() == [1.0, 101.0]


def test_no_reward_and_no_state_is_taken_from_beyond_an_end():
    returns = window(3)
    returns.add(*slot(0.0, [1.0, 10.0], ended=[True, False]))
    returns.add(*slot(1.0, [2.0, 20.0], terminated=[False, True]))
    done = returns.add(*slot(2.0, [4.0, 40.0]))
    assert done.utility.flatten().tolist() == [1.0, 20.0]
    assert done.following.nodes.flatten().tolist() == [1.0, 102.0]
    assert done.discount.tolist() == [0.5, 0.25]
    assert done.terminated.tolist() == [False, True]


def test_a_report_is_shared_by_the_slots_that_it_is_of():
    """Reports after slots 2 and 5 for the first state; the second one's episode ends after slot 1."""
    returns = window(3, shared_report)
    told = [[0.0, 0.0], [0.0, 8.0], [6.0, 3.0], [0.0, 0.0], [0.0, 0.0], [9.0, 30.0]]
    slots = [[0.0, 0.0], [0.0, 2.0], [3.0, 1.0], [0.0, 0.0], [0.0, 0.0], [3.0, 3.0]]
    done = [returns.add(*slot(float(t), told[t], reported=slots[t])) for t in range(6)]
    shares = [one.utility.flatten().tolist() for one in done if one is not None]
    assert shares == [[2.0, 4.0], [2.0, 4.0], [2.0, 3.0], [3.0, 10.0]]


def test_a_window_saved_and_loaded_goes_on():
    first, second = window(3), window(3)
    for time in range(2):
        first.add(*slot(float(time), [1.0, 2.0]))
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == second.saved
    one, other = (returns.add(*slot(2.0, [4.0, 8.0])) for returns in (first, second))
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, other.tensors()[name])


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["ddpg.steps=3"], r"set ddpg\.gamma above 0"),
        (["ddpg.steps=3", "ddpg.gamma=0.5", "reward.share_reports=true"], "exclude each other"),
        (["ddpg.steps=3", "ddpg.gamma=0.5", "reward.generated=true"], r"set ddpg\.steps=1"),
    ],
)
def test_what_does_not_fit_together_is_refused(asked, told):
    config = load_config(["problem=traffic", *asked])
    with pytest.raises(ConfigError, match=told):
        check_algorithm(config, make_problems(config)[0])


def test_the_default_cell_has_neither_consequences_nor_reports():
    for asked, told in (
        (["ddpg.steps=2", "ddpg.gamma=0.5"], "do not depend"),
        (["reward.share_reports=true"], "no rep"),
    ):
        config = load_config(asked)
        with pytest.raises(ConfigError, match=told):
            check_algorithm(config, make_problems(config)[0])

"""A limit on every antenna in a cell: no decision breaks it, whoever makes it."""

from __future__ import annotations

import pytest
import torch

import d2rl
from d2rl.algorithm.decisions import DecisionRule, decide
from d2rl.common.errors import ConfigError
from d2rl.problems import check_config, load_config, make_problems
from d2rl.testing import check_problem
from d2rl.wireless import link_rates

LIMIT = ("scenario.antenna_power=1",)


@pytest.mark.parametrize("head", ["structured", "switching", "settling", "beamforming"])
def test_a_problem_with_the_limit_keeps_its_promises(head):
    problem = make_problems(load_config(["conf=full_duplex", f"scenario.head={head}", *LIMIT]))[0]
    check_problem(problem)
    state = problem.frozen(8, 0, "cpu")
    decision = problem.decode(problem.observe(state), torch.rand(8, 4, problem.layout.size) * 2 - 1)
    assert problem.feasible(decision).all()
    free = make_problems(load_config(["conf=full_duplex", f"scenario.head={head}"]))[0]
    unlimited = free.decode(free.observe(state), torch.rand(8, 4, free.layout.size) * 2 - 1)
    assert not problem.feasible(unlimited).all()


def test_every_reference_keeps_the_limit():
    problem = make_problems(load_config(["conf=full_duplex", *LIMIT]))[0]
    state = problem.frozen(4, 0, "cpu")
    found = {name: policy(state) for name, policy in problem.references().items()}
    assert all(problem.feasible(decision).all() for decision in found.values())
    rates = {name: link_rates(state.channels, *decision).sum(-1).mean() for name, decision in found.items()}
    assert rates["wmmse"] == max(rates.values())


def test_a_policy_that_never_saw_the_limit_keeps_it_and_refining_gains_under_it():
    policy = d2rl.load("pretrained", *LIMIT)
    state = policy.problem.frozen(8, 77, "cpu")
    rates = []
    for rule in (DecisionRule(), DecisionRule(refine=5)):
        decision = decide(policy, state, rule, torch.Generator().manual_seed(0))
        assert policy.problem.feasible(decision).all()
        rates.append(policy.problem.measure(state, decision).sum((1, 2)))
    assert (rates[1] >= rates[0] - 1e-3).all()
    assert rates[1].mean() > rates[0].mean() + 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["conf=full_duplex", "scenario.antenna_power=0"], "scenario.antenna_power"),
        (["conf=full_duplex", "scenario.downlink_users=0", *LIMIT], "nobody to transmit to; set antenna_power to null"),
        (["conf=traffic", *LIMIT], "schedulers of problem=traffic do"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        check_config(load_config(arguments))

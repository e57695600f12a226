"""Time shared among links (benchmarks/time_sharing.py): two links that exclude each other, and the whole command."""

from __future__ import annotations

import pytest
import torch
from conftest import read_csv
from torch import Tensor, nn

from d2rl.problems.base import Layout, Observation

RATE = 4.0  # bit/s/Hz of the one of the two links that is served


def exclusive(weights: Tensor, slot: int = 0) -> Tensor:
    """Rates of two links of which the one of the higher priority is served, the first where they are alike."""
    return RATE * nn.functional.one_hot(weights.argmax(-1), 2)


def test_virtual_queues_give_half_of_the_time_to_each_of_two_links_of_which_a_fixed_decision_starves_one(script):
    equal = torch.ones(3, 2)
    rates, priorities = script("sharing_policies").virtual_queues(exclusive, equal, 20, 0.45 * RATE, patience=1.0)
    judged = script("time_sharing").judged
    assert torch.equal(rates.mean(0), equal * RATE / 2)
    assert float(priorities.min()) >= 1
    shared, fixed = judged(rates, 0.45 * RATE), judged(exclusive(equal).expand(20, -1, -1), 0.45 * RATE)
    assert (shared["served"], shared["all_served"], shared["shortfall"]) == (1, 1, 0)
    assert (fixed["served"], fixed["all_served"]) == (0.5, 0)
    assert fixed["shortfall"] == pytest.approx(0.45 * RATE / 2)
    assert shared["sum_rate"] == fixed["sum_rate"] == RATE


def test_of_single_decisions_the_one_that_serves_most_links_counts_then_the_sum(script):
    rates = torch.tensor([[9.0, 9, 0, 0], [2, 2, 2, 0], [2, 2, 3, 1]]).unsqueeze(1)
    assert script("time_sharing").single_best(rates, 2.0).tolist() == [[2, 2, 3, 1]]


def test_priorities_survive_being_numbers(script):
    policies, weights = script("sharing_policies"), torch.tensor([1.0, 3.0, 10.0])
    numbers = policies.from_priorities(weights)
    assert numbers.abs().max() <= 1 + 1e-6
    torch.testing.assert_close(policies.to_priorities(numbers), weights)


class Nodes(nn.Linear):
    """Embeddings of the nodes alone."""

    def forward(self, observation: Observation) -> Tensor:
        return super().forward(observation.nodes)


def test_gaussian_numbers_have_the_moments_of_the_network_and_do_not_depend_on_each_other(script):
    layout, ones = Layout((2,), (1,)), torch.ones(1, 2)
    seen = Observation(torch.eye(2).unsqueeze(0), ones.view(1, 2, 1, 1), ones, ones, (), layout)
    gaussian = script("sharing_policies").Gaussian(Nodes(2, 4), layout, 4)
    with torch.no_grad():
        gaussian.output.linear.weight.zero_()
        gaussian.output.linear.bias.copy_(torch.tensor([0.1, 0.05]).atanh())  # mean, mean square
        drawn = gaussian.sample(seen, 20000, torch.Generator().manual_seed(0))[0]
        loss = gaussian.loss(seen, torch.tensor([[[0.3, 0.3], [-0.1, -0.1]]]))
    torch.testing.assert_close(drawn.mean(0), torch.full((2,), 0.1), atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.full((2,), 0.2), atol=0.01, rtol=0)
    assert abs(float(torch.corrcoef(drawn.T)[0, 1])) < 0.03
    assert float(loss) == pytest.approx(0, abs=1e-10)


def test_all_methods_are_measured_on_the_same_windows(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script("sharing_policies"), "STATES", 4)
    monkeypatch.setattr(script("time_sharing"), "ITERATIONS", 2)
    few = ["drops=2", "slots=2", "users=2", "antennas=2", "seeds=1", "updates=1", "only=best single,WMMSE,Gaussian"]
    script("time_sharing").sharing_command([*few, f"out={tmp_path}"])
    rows = {row["method"]: row for row in read_csv(tmp_path / "time_sharing.csv")}
    learned = {"Gaussian of actions, imitating virtual queues", "Gaussian of priorities, imitating virtual queues"}
    assert learned | {"Gaussian noise, trained on its own windows", "virtual queues, WMMSE"} <= rows.keys()
    assert not any("AENPNN" in name for name in rows)
    best = float(rows["best single decision of all tried"]["served"])
    assert best >= float(rows["one decision for the minimum, WMMSE"]["served"])
    assert all(0 <= float(row["served"]) <= 1 and float(row["sum_rate"]) > 0 for row in rows.values())

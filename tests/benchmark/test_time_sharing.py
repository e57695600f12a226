"""Time shared among links (benchmarks/time_sharing.py): two links that exclude each other, and the whole command."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from conftest import read_csv
from torch import Tensor, nn

from d2rl.algorithm.explorers import AENPNN
from d2rl.config.defaults import AENPNNConfig
from d2rl.problems.base import Layout, Observation

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"
RATE = 4.0  # bit/s/Hz of the one of the two links that is served


@pytest.fixture
def script(monkeypatch):
    """A script of benchmarks/ as a module."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    return importlib.import_module


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


@pytest.mark.slow
def test_aenpnn_learns_which_links_exclude_each_other_and_independent_draws_do_not(script):
    """Shown are (0.7, -0.7) and (-0.7, 0.7), as often: exactly one link is served. The mean of both serves none."""
    torch.manual_seed(0)
    batch, layout, generator = 16, Layout((2,), (1,)), torch.Generator().manual_seed(0)
    ones = torch.ones(batch, 2)
    seen = Observation(torch.eye(2).expand(batch, -1, -1), ones[:, :, None, None] * ones[0], ones, ones, (), layout)
    shown = 0.7 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 1).expand(batch, -1, -1)
    alike = torch.full(shown.shape[:2], 1 / 8)
    chain = AENPNN(Nodes(2, 16), layout, 16, AENPNNConfig(exchange=True))
    gaussian = script("sharing_policies").Gaussian(Nodes(2, 16), layout, 16)
    losses = {
        chain: lambda: chain.imitate(seen, shown, alike, generator)[0],
        gaussian: lambda: gaussian.loss(seen, shown),
    }
    one_alone = []
    for network, loss in losses.items():
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        for _ in range(600):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        with torch.no_grad():
            drawn = network.sample(seen, 64, generator)
            served = (drawn.tanh() if network is chain else drawn) > 0
        one_alone.append(float((served.sum(-1) == 1).float().mean()))
        assert served.float().mean((0, 1)).tolist() == pytest.approx([0.5, 0.5], abs=0.15)
    assert one_alone[0] > 0.9
    assert one_alone[1] == pytest.approx(0.5, abs=0.1)
    assert float(gaussian.moments(seen)[0].detach().abs().max()) < 0.1


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

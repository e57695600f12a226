"""Means that stay on the device until somebody asks."""

from __future__ import annotations

import pytest
import torch

from d2rl.algorithm.means import Means


def test_means_are_those_of_the_values_added_under_a_name():
    means = Means()
    for value in (1.0, 2.0, 6.0):
        means.add("losses/critic", torch.tensor(value))
    means.add("losses/actor", torch.tensor(-5.0))
    assert means.current("losses/critic") == pytest.approx(3.0)
    assert means.collect() == pytest.approx({"losses/critic": 3.0, "losses/actor": -5.0})


def test_means_begin_anew_after_they_were_collected():
    means = Means()
    means.add("a", torch.tensor(4.0))
    assert means.current("a") == means.current("a") == 4.0  # looking takes nothing away
    assert means.collect() == {"a": 4.0}
    assert means.collect() == {}
    assert means.current("a") is None
    means.add("a", torch.tensor(1.0))
    assert means.collect() == {"a": 1.0}


def test_means_hold_no_graph_and_leave_values_alone():
    means, value = Means(), torch.tensor(2.0, requires_grad=True)
    means.add("a", value * 1)
    means.add("a", value * 3)
    assert not means.totals["a"].requires_grad
    assert means.collect() == {"a": 4.0}
    kept = torch.tensor(1.0)
    for _ in range(3):
        means.add("b", kept)
    assert kept == 1.0


def test_a_value_that_is_not_finite_shows():
    means = Means()
    means.add("a", torch.tensor(1.0))
    means.add("a", torch.tensor(float("nan")))
    assert means.current("a") != means.current("a")


def test_a_sum_stays_where_it_is_when_means_begin_anew():
    means = Means()
    means.add("a", torch.tensor(float("nan")))
    place = means.totals["a"].data_ptr()
    means.collect()
    for value in (1.0, 2.0):
        means.add("a", torch.tensor(value))
    assert means.totals["a"].data_ptr() == place
    assert means.collect() == {"a": 1.5}

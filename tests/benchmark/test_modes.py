"""Equally good actions, on a Q known in closed form: which objectives of AENPNN keep them (benchmarks/modes.py)."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def modes(script):
    return script("modes")


def test_recall_counts_modes_that_get_half_of_their_fair_share(modes):
    """Of 2, 4 and 8 modes: all draws at the first, or at each in turn, or at each but further off."""
    circles = modes.Circles()
    turns = circles.modes[:, torch.arange(modes.DRAWS) % 8]
    assert circles.recall(circles.modes[:, :1].expand_as(turns)) == [1 / 2, 1 / 4, 1 / 8]
    assert circles.recall(turns) == [1, 1, 1]
    assert circles.recall(0.4 * turns) == [0, 0, 0]
    assert circles.value(circles.seen, turns).min() > 0.99


def test_a_flow_of_two_steps_keeps_all_modes_and_the_others_end_in_one(modes):
    recall, value = modes.train(modes.Circles(), "flow", steps=2, seed=0, updates=250)
    assert min(recall) >= 0.75
    assert min(value) > 0.65
    for objective in ("chain", "weighted", "mixed"):
        recall, value = modes.train(modes.Circles(), objective, steps=6, seed=0, updates=150)
        assert all(share <= 1 / count for share, count in zip(recall, modes.COUNTS, strict=True)), objective
        assert min(value) > 0.9, objective

"""Limits on numbers, and the gradient on them."""

from __future__ import annotations

import math

import pytest
import torch

from d2rl.common.within import within


@pytest.mark.parametrize(
    ("limits", "expected", "slope"),
    [
        ({"low": -1, "high": 1}, [-1, -1, 0.5, 1, 1], [0, 1, 1, 1, 0]),
        ({"low": -1}, [-1, -1, 0.5, 1, 2], [0, 1, 1, 1, 1]),
        ({"high": 1}, [-3, -1, 0.5, 1, 1], [1, 1, 1, 1, 0]),
    ],
)
def test_what_stands_on_a_limit_has_a_gradient_and_what_is_beyond_has_none(limits, expected, slope):
    values = torch.tensor([-3, -1, 0.5, 1, 2], requires_grad=True)
    limited = within(values, **limits)
    limited.sum().backward()
    assert limited.tolist() == expected
    assert values.grad.tolist() == slope


@pytest.mark.parametrize("gradient", [False, True])
def test_limits_are_the_same_with_and_without_a_gradient_and_what_is_no_number_stays_visible(gradient):
    values = torch.tensor([-math.inf, -1, -0.5, 1, math.inf, math.nan], requires_grad=gradient)
    assert within(values, -1, 1)[:-1].tolist() == [-1, -1, -0.5, 1, 1]
    assert within(values, low=0)[:-1].tolist() == [0, 0, 0, 1, math.inf]
    assert within(values, -1, 1)[-1].isnan()

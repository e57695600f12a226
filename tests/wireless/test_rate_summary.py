"""The summary of link rates, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2rl.wireless.rate_summary import RateSummary, rate_summary

RATES = 5 * torch.rand(40, 5, generator=torch.Generator().manual_seed(0)) ** 2
WEIGHTS = 0.1 + torch.rand(40, 5, generator=torch.Generator().manual_seed(1))


def test_every_number_is_what_its_name_says():
    rates, weights = RATES.double().numpy(), WEIGHTS.double().numpy()
    total = rates.sum(1)
    expected = {
        "sum_rate": total.mean(),
        "weighted_sum_rate": (rates * weights).sum(1).mean(),
        "outage_sum_rate": np.quantile(total, 0.05),
        "rate_p5": np.quantile(rates, 0.05),
        "jain": np.mean([sum(row) ** 2 / (5 * sum(row**2)) for row in rates]),
    }
    assert rate_summary(RATES, WEIGHTS) == pytest.approx(expected, rel=1e-6)


def test_batches_add_up_and_reset_forgets():
    summary = RateSummary()
    for part in range(4):
        summary.update(RATES[10 * part : 10 * part + 10], WEIGHTS[10 * part : 10 * part + 10])
    found = {name: value.item() for name, value in summary.compute().items()}
    assert found == pytest.approx(rate_summary(RATES, WEIGHTS))
    summary.reset()
    summary.update(RATES[:3])  # without weights all links count the same
    found = summary.compute()
    assert found["sum_rate"].item() == pytest.approx(RATES[:3].sum(1).mean().item())
    assert found["weighted_sum_rate"].item() == pytest.approx(found["sum_rate"].item())


@pytest.mark.parametrize(
    ("rates", "jain"), [([2.0] * 5, 1.0), ([0, 0, 3.0, 0, 0], 0.2), ([1.0, 1, 0, 0, 0], 0.4), ([0.0] * 5, 0.0)]
)
def test_jain_runs_from_one_link_to_all(rates, jain):
    assert rate_summary(torch.tensor([rates]), torch.ones(1, 5))["jain"] == pytest.approx(jain)


def test_rates_of_a_few_links_are_reported_in_double():
    large = torch.full((1, 5), 1e8)
    large[0, 0] += 8
    assert rate_summary(large, torch.ones(1, 5))["sum_rate"] == 5e8 + 8

"""The summary of link rates, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2rl.problems.full_duplex.link_rate_metrics import RateMetrics

RATES = 5 * torch.rand(40, 5, generator=torch.Generator().manual_seed(0)) ** 2
WEIGHTS = 0.1 + torch.rand(40, 5, generator=torch.Generator().manual_seed(1))


def summary(rates, weights=None, downlink_users: int = 3) -> dict[str, float]:
    metrics = RateMetrics(downlink_users)
    metrics.update(rates, weights)
    return {name: value.item() for name, value in metrics.compute().items()}


def test_every_number_is_what_its_name_says():
    rates, weights = RATES.double().numpy(), WEIGHTS.double().numpy()
    total = rates.sum(1)
    expected = {
        "sum_rate": total.mean(),
        "weighted_sum_rate": (rates * weights).sum(1).mean(),
        "downlink_rate": rates[:, :3].sum(1).mean(),
        "uplink_rate": rates[:, 3:].sum(1).mean(),
        "outage_sum_rate": np.quantile(total, 0.05),
        "rate_p5": np.quantile(rates, 0.05),
        "jain": np.mean([sum(row) ** 2 / (5 * sum(row**2)) for row in rates]),
    }
    assert summary(RATES, WEIGHTS) == pytest.approx(expected, rel=1e-6)


def test_without_weights_all_links_count_the_same():
    found = summary(RATES)
    assert found["weighted_sum_rate"] == pytest.approx(found["sum_rate"], rel=1e-6)
    assert found["downlink_rate"] + found["uplink_rate"] == pytest.approx(found["sum_rate"])


@pytest.mark.parametrize(
    ("rates", "jain"), [([2.0] * 5, 1.0), ([0, 0, 3.0, 0, 0], 0.2), ([1.0, 1, 0, 0, 0], 0.4), ([0.0] * 5, 0.0)]
)
def test_jain_runs_from_one_link_to_all(rates, jain):
    assert summary(torch.tensor([rates]))["jain"] == pytest.approx(jain)


def test_batches_add_up_and_reset_forgets():
    metrics = RateMetrics(3)
    for part in range(4):
        metrics.update(RATES[10 * part : 10 * part + 10], WEIGHTS[10 * part : 10 * part + 10])
    assert {name: value.item() for name, value in metrics.compute().items()} == pytest.approx(summary(RATES, WEIGHTS))
    metrics.reset()
    metrics.update(RATES[:3])
    assert metrics.compute()["sum_rate"].item() == pytest.approx(RATES[:3].sum(1).mean().item())


def test_rates_of_a_few_links_are_reported_in_double():
    large = torch.full((1, 5), 1e8)
    large[0, 0] += 8
    assert summary(large)["sum_rate"] == 5e8 + 8

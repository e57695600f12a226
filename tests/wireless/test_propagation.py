"""Large-scale gains against numbers worked out by hand from the 3GPP formulas."""

from __future__ import annotations

import math

import pytest
import torch

from d2rl.wireless.propagation import LinkBudget, from_db, path_gain_db, thermal_noise, user_positions

CPU = torch.device("cpu")


@pytest.fixture
def budget() -> LinkBudget:
    return LinkBudget(
        bs_power=26.0,
        user_power=23.0,
        noise_downlink=-95.0,
        noise_uplink=-99.0,
        self_interference=-90.0,
        path_loss="los",
    )


@pytest.mark.parametrize(
    ("model", "metres", "gain"),
    [
        ("los", 1000.0, -103.8),
        ("los", 100.0, -82.9),
        ("los", 10.0, -62.0),
        ("nlos", 1000.0, -145.4),
        ("nlos", 100.0, -107.9),
        ("nlos", 50.0, -96.6114),  # 145.4 + 37.5 log10(0.05) = 145.4 - 48.7886
    ],
)
def test_path_gain_is_the_formula(model, metres, gain):
    assert path_gain_db(torch.tensor(metres), model).item() == pytest.approx(gain, abs=1e-3)


def test_thermal_noise_of_ten_megahertz():
    assert thermal_noise(10.0, -174.0, 9.0) == pytest.approx(-95.0)
    assert thermal_noise(20.0, -174.0, 5.0) == pytest.approx(-95.9897, abs=1e-4)


def test_decibels_become_linear_powers():
    decibel = torch.tensor([-float("inf"), -90.0, 0.0, 10.0, 125.0], dtype=torch.float64)
    expected = torch.tensor([0.0, 1e-9, 1.0, 10.0, 10**12.5], dtype=torch.float64)
    torch.testing.assert_close(from_db(decibel), expected, rtol=1e-12, atol=0)


def test_link_budget_by_hand(budget):
    downlink = torch.tensor([[[100.0, 0.0], [0.0, 10.0]]])
    uplink = torch.tensor([[[-50.0, 0.0], [0.0, 60.0], [0.0, 10.0]]])
    gains = budget.gains(downlink, uplink)
    decibel = {name: 10 * tensor.double().log10() for name, tensor in gains.tensors().items()}
    # transmit power - path loss - noise
    assert decibel["downlink"][0].tolist() == pytest.approx([26 - 82.9 + 95, 26 - 62.0 + 95], abs=1e-3)
    assert decibel["uplink"][0].tolist() == pytest.approx(
        [23 - (103.8 + 20.9 * math.log10(0.05)) + 99, 23 - (103.8 + 20.9 * math.log10(0.06)) + 99, 23 - 62.0 + 99],
        abs=1e-3,
    )
    assert decibel["self_interference"].tolist() == pytest.approx([26 - 90 + 99], abs=1e-3)
    for k, place in enumerate(uplink[0].tolist()):
        for j, other in enumerate(downlink[0].tolist()):
            metres = max(math.dist(place, other), 1.0)  # two users at one spot count as 1 m apart
            expected = 23 - (145.4 + 37.5 * math.log10(metres / 1000)) + 95
            assert decibel["cross"][0, k, j].item() == pytest.approx(expected, abs=1e-3)


def test_non_line_of_sight_changes_the_base_station_links_only(budget):
    places = torch.tensor([[[100.0, 0.0]]]), torch.tensor([[[0.0, 100.0]]])
    clear = budget.gains(*places)
    blocked = LinkBudget(26.0, 23.0, -95.0, -99.0, -90.0, "nlos").gains(*places)
    for name in ("downlink", "uplink"):
        ratio = 10 * (getattr(clear, name) / getattr(blocked, name)).log10()
        assert ratio.item() == pytest.approx(107.9 - 82.9, abs=1e-3)
    assert torch.equal(clear.cross, blocked.cross)
    assert torch.equal(clear.self_interference, blocked.self_interference)


def test_selected_gains_keep_together(gains):
    chosen = gains[torch.tensor([3, 1])]
    for name, tensor in chosen.tensors().items():
        assert torch.equal(tensor, getattr(gains, name)[[3, 1]]), name


def test_users_lie_in_the_ring(generator):
    distance = user_positions(4000, 5, 100.0, 10.0, generator, CPU).norm(dim=-1)
    assert distance.min() >= 10 - 1e-4
    assert distance.max() <= 100 + 1e-4


def test_users_are_uniform_in_area(generator):
    places = user_positions(4000, 5, 100.0, 10.0, generator, CPU).flatten(0, 1).double()
    n = len(places)
    critical = 1.95 / math.sqrt(n)  # Kolmogorov-Smirnov at 0.1 %
    ranks = torch.arange(1, n + 1, dtype=torch.float64) / n
    share_of_area = (places.norm(dim=-1).square() - 10**2) / (100**2 - 10**2)
    assert (share_of_area.sort().values - ranks).abs().max() < critical
    angle = torch.atan2(places[:, 1], places[:, 0]) / (2 * math.pi) + 0.5
    assert (angle.sort().values - ranks).abs().max() < critical


def test_positions_come_from_the_given_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = user_positions(8, 3, 100.0, 10.0, torch.Generator().manual_seed(5), CPU)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first, user_positions(8, 3, 100.0, 10.0, torch.Generator().manual_seed(5), CPU))
    assert not torch.equal(first, user_positions(8, 3, 100.0, 10.0, torch.Generator().manual_seed(6), CPU))

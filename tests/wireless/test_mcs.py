"""Schemes: the standard's table, their choice, what is lost, tables of the reader's own."""

from __future__ import annotations

import math

import pytest
import torch

from d2rl.common.errors import InputError
from d2rl.wireless.mcs import STANDARD, McsTable, sinr_of

TABLE = McsTable.standard()
SINR = 10 ** (torch.linspace(-20, 40, 601) / 10)


def test_the_standard_has_29_schemes_of_the_efficiencies_that_it_prints():
    assert len(TABLE.efficiency) == 29
    printed = {0: 0.2344, 4: 0.6016, 9: 1.3262, 10: 1.3281, 16: 2.5703, 17: 2.5664, 22: 3.9023, 28: 5.5547}
    for scheme, efficiency in printed.items():
        assert round(float(TABLE.efficiency[scheme]), 4) == efficiency


def test_every_second_block_is_lost_at_the_threshold_and_one_in_ten_above_it():
    schemes = torch.arange(29)
    at = 10 ** (TABLE.threshold / 10)
    torch.testing.assert_close(TABLE.error_rate(at, schemes), torch.full((29,), 0.5), atol=1e-3, rtol=0)
    above = 10 ** ((TABLE.threshold + math.log(9) / 11) / 10)
    torch.testing.assert_close(TABLE.error_rate(above, schemes), torch.full((29,), 0.1), atol=1e-3, rtol=0)


def test_no_scheme_passes_shannon():
    for scheme in range(29):
        goodput = TABLE.goodput(SINR, torch.full_like(SINR, scheme, dtype=torch.int64))
        assert (goodput < torch.log2(1 + SINR)).all()


@pytest.mark.parametrize("target", [0.01, 0.1, 0.5])
def test_the_highest_scheme_that_keeps_the_target_is_chosen(target):
    chosen = TABLE.choose(SINR, target)
    rates = torch.stack([TABLE.error_rate(SINR, torch.full_like(chosen, scheme)) for scheme in range(29)])
    kept = rates <= target
    for one, fits in zip(chosen.tolist(), kept.T, strict=True):
        assert one == max(fits.nonzero().flatten().tolist(), default=-1)
    assert (chosen.diff() >= 0).all()
    assert chosen[0] == -1
    assert chosen[-1] == 28


def test_a_link_too_weak_for_any_scheme_sends_nothing(generator):
    sinr = torch.tensor([[0.0, 1e-4], [1e-3, 1e9]])
    scheme = TABLE.choose(sinr)
    assert scheme.tolist() == [[-1, -1], [-1, 28]]
    assert TABLE.goodput(sinr, scheme)[scheme < 0].sum() == 0
    assert not TABLE.acknowledged(sinr, scheme, generator)[scheme < 0].any()
    assert TABLE.acknowledged(sinr, scheme, generator)[1, 1]


def test_acknowledgements_are_as_frequent_as_the_error_rate_says(generator):
    sinr = torch.full((20_000,), 10 ** (float(TABLE.threshold[12]) / 10 + 0.01))
    scheme = torch.full((20_000,), 12)
    expected = 1 - float(TABLE.error_rate(sinr[:1], scheme[:1]))
    assert 0.2 < expected < 0.9
    found = float(TABLE.acknowledged(sinr, scheme, generator).float().mean())
    assert abs(found - expected) < 4 * math.sqrt(0.25 / 20_000)


def test_sinr_behind_rates():
    rates = torch.tensor([0.0, 1e-4, 1.0, 20.0])
    torch.testing.assert_close(torch.log2(1 + sinr_of(rates).double()), rates.double(), rtol=1e-3, atol=1e-9)


def write(path, *rows):
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_table_of_ones_own(tmp_path):
    rows = [f"{order},{rate / 1024}" for order, rate in ((2, 120), (4, 340), (8, 948))]
    table = McsTable.load(write(tmp_path / "own.csv", "order,code_rate", *rows))
    torch.testing.assert_close(table.efficiency, torch.tensor([0.234375, 1.328125, 7.40625]))
    torch.testing.assert_close(table.threshold[:1], TABLE.threshold[:1])
    table = McsTable.load(write(tmp_path / "own.csv", "order, code_rate, threshold_db", "2,0.5,1", "4,0.5,7"))
    assert table.threshold.tolist() == [1, 7]


def test_the_standard_itself_is_accepted_as_a_file(tmp_path):
    rows = [f"{order},{rate / 1024}" for order, rates in STANDARD.items() for rate in rates]
    table = McsTable.load(write(tmp_path / "own.csv", "order,code_rate", *rows))
    torch.testing.assert_close(table.efficiency, TABLE.efficiency)


BAD = {
    "order,rate\n2,0.5\n": "columns order, rate",
    "order,code_rate\n": "no scheme",
    "": "columns none",
    "order,code_rate\n2,0.5\n2,0.4\n": "scheme 1 carries 0.8",
    "order,code_rate\n2,0.5\n2,0.5\n": "scheme 1",
    "order,code_rate\n4,0.5\n2,0.9\n": "scheme 1",
    "order,code_rate\n2,0.9\n4,0.3\n": "rising order",
    "order,code_rate\n2,600\n": "code_rate 600",
    "order,code_rate\n2.5,0.5\n": "order 2.5",
    "order,code_rate\n2,nan\n": "no number",
    "order,code_rate\n2,a\n": "no number",
    "order,code_rate\n2\n": "no number",
    "order,code_rate\n2,0.5,9\n": "no number",
    "order,code_rate,threshold_db\n2,0.5,3\n4,0.5,2\n": "thresholds must rise",
}


@pytest.mark.parametrize("content", BAD)
def test_a_table_that_cannot_be_used_is_one_message(tmp_path, content):
    path = tmp_path / "own.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=BAD[content]) as caught:
        McsTable.load(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_table_is_one_message(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        McsTable.load(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00\x01order")
    with pytest.raises(InputError, match="CSV"):
        McsTable.load(tmp_path / "bytes.csv")

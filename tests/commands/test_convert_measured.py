"""Channels of measured sets: places of every user with gaps, as netCDF has them, and parts of an array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from d2rl.channels import bank_from_file
from d2rl.common import notices
from d2rl.common.errors import InputError

h5py = pytest.importorskip("h5py", reason="the extra d2rl[files] is not installed")
scipy_io = pytest.importorskip("scipy.io", reason="the extra d2rl[files] is not installed")

RUNS, STOPS, HOSTS = 3, 30, 6


@pytest.fixture(autouse=True)
def told(caplog):
    """What was said, in this test."""
    notices.notice_once.cache_clear()
    caplog.set_level("WARNING")
    return lambda: caplog.text


def rover() -> np.ndarray:
    """[run, stop, host] as a rover's campaign has it: runs of different lengths, one host silent at one stop."""
    generator = np.random.default_rng(0)
    csi = generator.standard_normal((RUNS, STOPS, HOSTS)) + 1j * generator.standard_normal((RUNS, STOPS, HOSTS))
    csi[1, 20:] = np.nan
    csi[2, 4, 2] = np.nan
    return csi


def save_netcdf3(path: Path, csi: np.ndarray) -> None:
    """As xarray writes it with scipy: names as characters, parts of complex numbers as variables."""
    with scipy_io.netcdf_file(path, "w", version=2) as file:
        for name, size in zip(("experiment_id", "cycle_id", "hostname"), csi.shape, strict=True):
            file.createDimension(name, size)
        file.createDimension("string3", 3)
        file.createVariable("hostname", "S1", ("hostname", "string3"))[:] = np.full((HOSTS, 3), b"A")
        for name, part in (("csi_real", csi.real), ("csi_imag", csi.imag)):
            file.createVariable(name, "f8", ("experiment_id", "cycle_id", "hostname"))[:] = part


def save_netcdf4(path: Path, csi: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["csi_real"], file["csi_imag"] = csi.real, csi.imag
        file["hostname"] = [b"A05"] * HOSTS


def places(found: torch.Tensor, known: np.ndarray) -> set[int]:
    """Which of the places [U, N] the channels [B, N] are; each must be one of them."""
    distance = np.abs(found.numpy()[:, None] - np.nan_to_num(known, nan=1e9)).max(-1)
    assert distance.min(1).max() < 1e-5
    return set(distance.argmin(1).tolist())


@pytest.mark.parametrize("save", [save_netcdf3, save_netcdf4])
def test_every_user_stays_at_its_own_places(tmp_path, told, save):
    csi = rover()
    save(tmp_path / "csi.nc", csi)
    text = "downlink:csi_real+csi_imag:K[1:]UN[0:6:2]"
    bank = bank_from_file(tmp_path / "csi.nc", text, users="1+1", drops=200, unit="noise")
    assert (bank.channels.downlink.shape, bank.channels.uplink.shape) == ((200, 1, 3), (200, 1, 3))
    training, kept = bank.split()
    for own, known, all_of_them in (("downlink", csi[1].conj(), 20), ("uplink", csi[2], STOPS - 1)):
        first, last = (places(getattr(part.channels, own)[:, 0], known[:, ::2]) for part in (training, kept))
        assert len(first) + len(last) == all_of_them  # every place that was measured in full
        assert max(first) < min(last)  # nobody is judged where it was trained
    assert "10 places of user 0 of 30 without a path to the base station, or not measured, are left out" in told()
    assert "1 place of user 1 of 30" in told()


def test_mean_gains_are_those_of_users_who_stay(tmp_path):
    save_netcdf4(tmp_path / "csi.nc", rover())
    bank = bank_from_file(tmp_path / "csi.nc", "downlink:csi_real+csi_imag:KUN", users="2+1", drops=300, snr=20.0)
    for name, axes in (("cross", (0,)), ("downlink", (0, -1)), ("uplink", (0, -1))):
        power, gain = getattr(bank.channels, name).abs().square().mean(axes), getattr(bank.gains, name)
        assert torch.equal(gain, gain[:1].expand_as(gain))  # one of each user, and not of each state
        assert (10 * (power / gain[0]).log10()).abs().max() < 1  # dB


def test_gaps_of_states_are_refused_with_the_way_out(tmp_path):
    save_netcdf4(tmp_path / "csi.nc", rover())
    with pytest.raises(InputError, match=r"holds NaN .* axis B .*: at 11 of 30, the first at 4\..*\(axis U\)"):
        bank_from_file(tmp_path / "csi.nc", "downlink:csi_real+csi_imag:KBN")
    with pytest.raises(InputError, match=r"has 4 places of user 0; 5 are needed"):
        bank_from_file(tmp_path / "csi.nc", "downlink:csi_real+csi_imag:KU[:4]N")


def test_brackets_take_part_of_an_axis(tmp_path, monkeypatch):
    monkeypatch.setattr("d2rl.wireless.channel_map.CHUNK", 16 * 2 * 8 * 5 * 3)
    generator = np.random.default_rng(0)
    array = 10 * (generator.standard_normal((40, 2, 8, 5)) + 1j * generator.standard_normal((40, 2, 8, 5)))
    np.save(tmp_path / "H.npy", array)
    bank = bank_from_file(tmp_path / "H.npy", "downlink:H:B[1:38:2]K[-1]N[:4]F[3]")
    np.testing.assert_allclose(bank.channels.downlink.numpy(), array[1:38:2, -1:, :4, 3].conj(), rtol=1e-5)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ("BKN[8:]F", r"downlink:H:BKN\[8:\]F: N\[8:\] takes nothing of an axis of size 8"),
        ("BK[2]NF", r"K\[2\] takes nothing of an axis of size 2"),
        ("BKN[::-1]F", "a slice with a step of 1 or more, such as"),
        ("BKN[a]F", "brackets hold an index or a slice"),
        ("BKN[]F", "must be KIND:NAME:AXES"),
        ("BKN[0F", "must be KIND:NAME:AXES"),
    ],
)
def test_brackets_that_cannot_be_are_named(tmp_path, axes, message):
    np.save(tmp_path / "H.npy", np.ones((40, 2, 8, 5), dtype=complex))
    with pytest.raises(InputError, match=message):
        bank_from_file(tmp_path / "H.npy", f"downlink:H:{axes}")


def test_a_file_that_is_no_netcdf_is_named(tmp_path):
    (tmp_path / "csi.nc").write_bytes(b"CDF\x02 and then something else")
    with pytest.raises(InputError, match=r"csi\.nc cannot be read: it is damaged or not what its name says"):
        bank_from_file(tmp_path / "csi.nc")

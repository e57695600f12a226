"""Banks whose axes are in another order: what is wrong for certain is named, what only looks wrong is said."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from d2rl.common.errors import InputError
from d2rl.wireless.bank_file import COEFFICIENTS, load_bank

SQUARE = {"downlink_users": 4, "uplink_users": 4, "transmit_antennas": 4, "receive_antennas": 4}
OTHER = {"downlink_users": 3, "uplink_users": 2, "transmit_antennas": 4, "receive_antennas": 5}


@pytest.fixture
def arrays(make_channels):
    """The four arrays of a bank of drawn channels: ``arrays(OTHER, states=6)``."""

    def draw(cell: dict[str, int], states: int = 6, seed: int = 0, **options) -> dict[str, np.ndarray]:
        tensors = make_channels(states, seed, **cell, **options).tensors()
        return {name: tensor.numpy() for name, tensor in tensors.items()}

    return draw


def saved(tmp_path: Path, content: dict[str, np.ndarray]) -> Path:
    np.savez(tmp_path / "bank.npz", **content)
    return tmp_path / "bank.npz"


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_bank(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def notices(path: Path, caplog) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load_bank(path)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("slots", [None, 2])
def test_arrays_with_all_axes_reversed_are_said_to_be_so(tmp_path, arrays, slots):
    content = arrays(OTHER)
    if slots:
        content = {name: array.reshape(3, 2, *array.shape[1:]) for name, array in content.items()}
    message = refusal(saved(tmp_path, {name: array.T for name, array in content.items()}))
    lead, order = ("B, T", "(3, 2, 1, 0)") if slots else ("B", "(2, 1, 0)")
    assert "bank.npz: all arrays have their axes in another order" in message
    assert f"downlink {content['downlink'].T.shape} must be ({lead}, K_D, N_t)" in message
    assert f"numpy.transpose(ARRAY, {order}) mends each" in message


@pytest.mark.parametrize("name", COEFFICIENTS)
@pytest.mark.parametrize("order", [(2, 1, 0), (0, 2, 1), (1, 2, 0)], ids=str)
def test_one_array_with_its_axes_in_another_order_is_blamed_and_mended(tmp_path, arrays, name, order):
    content = arrays(OTHER)
    wrong = {**content, name: content[name].transpose(order)}
    message = refusal(saved(tmp_path, wrong))
    asked = f"{name} has shape {wrong[name].shape}, the other arrays ask for {content[name].shape}"
    assert f"bank.npz: {asked}" in message
    back = tuple(int(axis) for axis in np.argsort(order))
    assert f"numpy.transpose(ARRAY, {back}) mends it" in message
    np.savez(tmp_path / "bank.npz", **{**wrong, name: wrong[name].transpose(back)})
    load_bank(tmp_path / "bank.npz")


def test_antennas_and_users_swapped_in_both_directions_are_said(tmp_path, arrays):
    content = arrays(OTHER)
    for name in ("downlink", "uplink"):
        content[name] = content[name].swapaxes(1, 2)
    message = refusal(saved(tmp_path, content))
    assert "downlink and uplink have their axes in another order" in message
    assert "numpy.transpose(ARRAY, (0, 2, 1)) mends each" in message


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_an_array_of_fewer_states_is_blamed_itself(tmp_path, arrays, name):
    content = arrays(OTHER)
    content[name] = content[name][:5]
    assert f"bank.npz: {name} has shape (5, " in refusal(saved(tmp_path, content))


@pytest.mark.parametrize("path_loss", ["los", "nlos"])
@pytest.mark.parametrize("name", ["downlink", "uplink"])
def test_a_square_array_with_antennas_and_users_swapped_is_noticed(tmp_path, arrays, caplog, name, path_loss):
    content = arrays(SQUARE, states=40, path_loss=path_loss)
    assert notices(saved(tmp_path, content), caplog) == []
    content[name] = content[name].swapaxes(1, 2)
    (notice,) = notices(saved(tmp_path, content), caplog)
    assert f"bank.npz: {name} differs more from antenna to antenna" in notice
    assert f"numpy.swapaxes({name}, -2, -1)" in notice


@pytest.mark.parametrize("seed", range(5))
def test_users_of_equal_gain_are_no_reason_for_a_notice(tmp_path, caplog, seed):
    generator = np.random.default_rng(seed)
    for states in (2, 10, 100):
        noise = generator.standard_normal((2, states, 4, 4, 4))
        content = {name: 10 * (noise[0, ..., i] + 1j * noise[1, ..., i]) for i, name in enumerate(COEFFICIENTS)}
        assert notices(saved(tmp_path, content), caplog) == []


def test_imaginary_parts_that_are_all_0_are_noticed(tmp_path, arrays, caplog):
    content = arrays(OTHER)
    for name in ("uplink", "self_interference"):
        content[name] = content[name].real.astype(complex)
    (notice,) = notices(saved(tmp_path, content), caplog)
    assert "bank.npz: the imaginary parts of uplink, self_interference are all 0" in notice


@pytest.mark.parametrize("name", ["cross", "self_interference"])
def test_channels_without_a_phase_to_lose_are_fine(tmp_path, arrays, caplog, name):
    """No self-interference at all, and powers between users: their phases never count."""
    content = arrays(OTHER)
    content[name] = abs(content[name]).astype(complex) * (name == "cross")
    assert notices(saved(tmp_path, content), caplog) == []


@pytest.mark.parametrize("name", ["cross", "self_interference"])
def test_what_no_transmitter_could_cause_is_refused_in_every_array(tmp_path, arrays, name):
    content = arrays(OTHER)
    content[name] = content[name] * 10 ** (200 / 20)
    assert f"bank.npz: |{name}|^2 has a median of" in refusal(saved(tmp_path, content))


@pytest.mark.parametrize("ending", ["mat", "h5", "hdf5", "npy"])
def test_a_file_of_another_kind_is_refused_with_how_to_convert_it(tmp_path, ending):
    stem = tmp_path / "measured"
    stem.with_suffix(f".{ending}").write_bytes(b"")
    how = f"d2rl-channels from={stem}.{ending} out={stem}.npz makes one of it"
    assert how in refusal(stem.with_suffix(f".{ending}"))

"""Channels from files of every kind: each is written here as its program writes it, read back and compared."""

from __future__ import annotations

import pickle
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from d2rl.channels import bank_from_file, load_bank
from d2rl.commands import convert_channels
from d2rl.commands.make_channel_bank import channels_command
from d2rl.common import notices
from d2rl.common.errors import ConfigError, InputError
from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.full_duplex.simulator import evaluation_states

h5py = pytest.importorskip("h5py", reason="the extra d2rl[files] is not installed")
scipy_io = pytest.importorskip("scipy.io", reason="the extra d2rl[files] is not installed")

STATES, USERS, ANTENNAS = 40, 3, 4
LEVEL = 10.0  # of the amplitude: 20 dB over noise


@pytest.fixture(autouse=True)
def told(caplog):
    """What was said, in this test."""
    notices.notice_once.cache_clear()
    caplog.set_level("WARNING")
    return lambda: caplog.text


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(shape) + 1j * generator.standard_normal(shape)) / 2**0.5


def cell(seed: int = 0) -> np.ndarray:
    """[B, K, N], users at different distances."""
    gain = 10 ** np.random.default_rng(seed + 1).uniform(-1, 1, (STATES, USERS, 1))
    return LEVEL * gain * normal(STATES, USERS, ANTENNAS, seed=seed)


def save_v73(path: Path, content: dict[str, Any]) -> None:
    """As MATLAB's -v7.3: a header of 512 bytes, axes reversed, complex numbers as pairs, cells as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        references = file.create_group("#refs#")

        def write(group: Any, name: str, value: Any) -> Any:
            if isinstance(value, dict):
                inner = group.create_group(name)
                inner.attrs["MATLAB_class"] = np.bytes_("struct")
                for key, part in value.items():
                    write(inner, key, part)
                return inner
            if isinstance(value, list):
                parts = [write(references, f"{len(references)}x", part).ref for part in value]
                made = group.create_dataset(name, data=np.array([parts], dtype=object).T, dtype=h5py.ref_dtype)
                made.attrs["MATLAB_class"] = np.bytes_("cell")
                return made
            array = np.asarray(value).T
            if np.iscomplexobj(array):
                pairs = np.empty(array.shape, dtype=[("real", "f8"), ("imag", "f8")])
                pairs["real"], pairs["imag"] = array.real, array.imag
                array = pairs
            made = group.create_dataset(name, data=array)
            made.attrs["MATLAB_class"] = np.bytes_("double")
            return made

        for name, value in content.items():
            write(file, name, value)


def save_h5(path: Path, content: dict[str, np.ndarray]) -> None:
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            file.create_dataset(name, data=value)


WRITERS = {
    "mat": scipy_io.savemat,
    "v7.3.mat": save_v73,
    "h5": save_h5,
    "npz": lambda path, content: np.savez(path, **content),
    "npy": lambda path, content: np.save(path, content["H"]),
}


# ------------------------------------------------------------------ containers


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("axes", ["BKN", "KNB", "NKB"])
def test_an_array_is_the_same_from_every_kind_of_file(tmp_path, ending, axes):
    array, path = cell(), tmp_path / f"H.{ending}"
    WRITERS[ending](path, {"H": array.transpose(["BKN".index(letter) for letter in axes])})
    bank = bank_from_file(path, f"downlink:H:{axes}")
    assert bank.noise_normalised
    assert (bank.channels.uplink_users, bank.channels.downlink_users, len(bank)) == (0, USERS, STATES)
    np.testing.assert_allclose(bank.channels.downlink.numpy(), array.conj(), rtol=1e-5)
    np.testing.assert_allclose(bank.gains.downlink.numpy(), np.mean(np.abs(array) ** 2, -1), rtol=1e-4)


@pytest.mark.parametrize("axes", ["BKN", "KNB", "NKB", "BNK"])
def test_axes_are_guessed_from_sizes_and_powers_and_the_guess_is_shown(tmp_path, told, axes):
    array, path = cell(), tmp_path / "H.mat"
    scipy_io.savemat(path, {"H": array.transpose(["BKN".index(letter) for letter in axes]), "snr": np.arange(5.0)})
    np.testing.assert_allclose(bank_from_file(path).channels.downlink.numpy(), array.conj(), rtol=1e-5)
    assert "H.mat: read as map=downlink:H:" in told()
    assert ("are exchanged" in told()) == (axes in ("NKB", "BNK"))


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        (lambda h: {"H_real": h.real, "H_imag": h.imag}, "downlink:H_real+H_imag:BKN"),
        (lambda h: {"H": np.stack([h.real, h.imag], -1)}, "downlink:H:BKNC"),
        (lambda h: {"H": h[:, None]}, "downlink:H:BTKN"),
    ],
)
def test_parts_of_complex_numbers_are_joined(tmp_path, told, content, entry):
    array = cell()
    np.savez(tmp_path / "H.npz", **content(array))
    for text in (entry, None):
        bank = bank_from_file(tmp_path / "H.npz", text)
        np.testing.assert_allclose(bank.channels.downlink.numpy(), array.conj(), rtol=1e-5)
    assert f"map={entry}, which is a guess" in told()


@pytest.mark.parametrize("fields", [("real", "imag"), ("Re", "Im"), ("imag", "real"), ("r", "i"), ("I", "Q")])
@pytest.mark.parametrize("ending", ["h5", "npz", "npy"])
def test_fields_of_a_compound_type_are_joined_whatever_they_are_called(tmp_path, ending, fields):
    array, path = cell(), tmp_path / f"H.{ending}"
    real, imaginary = fields if fields != ("imag", "real") else fields[::-1]
    parts = np.empty(array.shape, [(name, "f8") for name in fields])
    parts[real], parts[imaginary] = array.real, array.imag
    WRITERS[ending](path, {"H": parts})
    for text in ("downlink:H:BKN", None):
        np.testing.assert_allclose(bank_from_file(path, text).channels.downlink.numpy(), array.conj(), rtol=1e-5)


def test_fields_that_are_no_parts_of_complex_numbers_are_not_joined(tmp_path):
    np.savez(tmp_path / "H.npz", H=np.zeros((20, 4, 8), [("gain", "f8"), ("phase", "f8")]))
    with pytest.raises(InputError, match="holds no arrays of numbers"):
        bank_from_file(tmp_path / "H.npz")


@pytest.mark.parametrize("factor", [1e-18, 1e30])
def test_a_level_that_no_link_has_is_refused_before_anything_is_written(tmp_path, factor):
    np.save(tmp_path / "H.npy", factor * cell())
    with pytest.raises(InputError, match=r"dB over noise at full power, which no link has\. Say snr=20"):
        channels_command([f"from={tmp_path / 'H.npy'}", f"out={tmp_path / 'bank.npz'}"])
    assert [path.name for path in tmp_path.iterdir()] == ["H.npy"]
    assert bank_from_file(tmp_path / "H.npy", snr=20.0).noise_normalised


@pytest.mark.parametrize("arguments", [["H.mat"], ["--from=H.mat"], ["--from", "H.mat"], ["from = H.mat"]], ids=str)
def test_a_file_without_its_key_is_one_message(arguments):
    with pytest.raises(ConfigError, match=r"write from=(H\.mat|FILE), without blanks or dashes"):
        channels_command([*arguments, "out=bank.npz"])


def test_a_place_that_cannot_be_written_is_said_before_the_file_is_read(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"bank.npz cannot be written: .*; choose another place"):
        channels_command([f"from={tmp_path / 'missing.mat'}", f"out={tmp_path / 'file' / 'bank.npz'}"])


def test_the_next_command_can_be_copied_though_the_path_has_blanks(tmp_path, capsys):
    np.save(tmp_path / "my file.npy", cell())
    channels_command([f"from={tmp_path / 'my file.npy'}", f"out={tmp_path / 'my bank.npz'}"])
    words = shlex.split(capsys.readouterr().out)
    assert f"scenario.channel_bank={tmp_path / 'my bank.npz'}" in words


def test_a_time_axis_makes_episodes(tmp_path):
    array = LEVEL * normal(STATES, 5, USERS, ANTENNAS)
    np.save(tmp_path / "H.npy", array)
    bank = bank_from_file(tmp_path / "H.npy", "downlink:H:BTKN")
    assert (bank.slots, len(bank)) == (5, 5 * STATES)
    np.testing.assert_allclose(bank.channels.downlink[:5].numpy(), array[0].conj(), rtol=1e-5)


def test_a_long_file_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("d2rl.wireless.channel_map.CHUNK", 16 * USERS * ANTENNAS * 7)
    save_v73(tmp_path / "H.mat", {"H": cell().transpose(1, 2, 0)})
    steps = []
    bank = bank_from_file(tmp_path / "H.mat", "downlink:H:KNB", progress=lambda parts: steps.extend(parts) or parts)
    assert steps == [0, 7, 14, 21, 28, 35]
    np.testing.assert_allclose(bank.channels.downlink.numpy(), cell().conj(), rtol=1e-5)


# ------------------------------------------------------------------ programs


def served(bank: Any, users: np.ndarray) -> set[int]:
    """Which of ``users`` [U, N] a bank serves; every user of the bank must be one of them."""
    found, known = bank.channels.downlink.flatten(0, 1).conj().resolve_conj().numpy(), np.asarray(users)
    distance = torch.from_numpy(np.abs(found[:, None] - known).max(-1))
    assert distance.amin(1).max() < 1e-3
    return set(distance.argmin(1).tolist())


def deepmimo(kind: str, path: Path, users: np.ndarray) -> Path:
    """``users`` [U, N] as DeepMIMO's datasets hold them; subcarriers beside the middle one are of no use."""
    every = np.stack([0 * users, users, 0 * users], -1)[:, None]  # [U, 1, N, F]
    if kind == "3, dictionary in .npy":
        path = path.with_suffix(".npy")
        np.save(path, [{"user": {"channel": every, "location": np.zeros((len(users), 3))}, "location": np.zeros(3)}])
    elif kind == "4, .npz":
        path = path.with_suffix(".npz")
        np.savez(path, channel=every, rx_pos=np.zeros((len(users), 3)))
    else:
        path = path.with_suffix(".mat")
        cells = [{"channel": one, "loc": np.zeros((1, 3))} for one in every]
        if kind == "MATLAB, -v7.3":
            save_v73(path, {"DeepMIMO_dataset": [{"user": cells, "basestation": []}]})
        else:
            column = np.empty(len(users), dtype=object)
            column[:] = cells
            outer = np.empty(1, dtype=object)
            outer[0] = {"user": column}
            scipy_io.savemat(path, {"DeepMIMO_dataset": outer})
    return path


@pytest.mark.parametrize("kind", ["MATLAB", "MATLAB, -v7.3", "3, dictionary in .npy", "4, .npz"])
def test_deepmimo(tmp_path, kind, told):
    users = LEVEL * normal(25, ANTENNAS)
    users[3] = 0  # nothing reaches it
    path = deepmimo(kind, tmp_path / "set", users)
    bank = bank_from_file(path, users="2+0", drops=50)
    assert bank.channels.downlink.shape == (50, 2, ANTENNAS)
    assert 3 not in served(bank, users)
    assert "1 user of 25 without a path" in told()
    training, kept = bank.split()
    assert not served(training, users) & served(kept, users)  # nobody is trained on and judged on
    assert (bank.channels.downlink[:, 0] != bank.channels.downlink[:, 1]).any(-1).all()


def test_quadriga(tmp_path):
    """As qd_channel.mat_save writes: one array [Rx, Tx, paths, snapshots] for each user, with different paths."""
    generator, content, users = np.random.default_rng(0), {"ChannelDims": np.array([5, 1, 1, 1])}, []
    for number in range(1, 21):
        coefficients = LEVEL * normal(1, ANTENNAS, generator.integers(2, 6), 1, seed=number)
        content |= {f"channel_{number:05d}_Coeffs": coefficients, f"channel_{number:05d}_Name": f"Tx1_Rx{number}"}
        content[f"channel_{number:05d}_rx_position"] = np.zeros((3, 1))
        users.append(coefficients.sum(2)[0, :, 0])
    scipy_io.savemat(tmp_path / "q.mat", content)
    bank = bank_from_file(tmp_path / "q.mat", users="3+0", drops=40, unit="noise")
    assert len(served(bank, np.array(users))) > 10


def test_sionna_rt(tmp_path):
    """As numpy.savez(a=a, tau=tau) of Paths.cir(out_type="numpy"): rx, rx antenna, tx, tx antenna, path, time."""
    a = LEVEL * normal(20, 2, 1, ANTENNAS, 6, 1)
    np.savez(tmp_path / "cir.npz", a=a, tau=np.zeros((20, 1, 6)))
    bank = bank_from_file(tmp_path / "cir.npz", users="2+0", drops=40)
    assert len(served(bank, a[:, 0, 0].sum(2)[..., 0])) > 10


# ------------------------------------------------------------------ both directions


def test_what_full_duplex_needs_and_a_file_lacks_is_drawn_from_the_scenario(tmp_path, told):
    np.save(tmp_path / "H.npy", 1e-5 * normal(400, 5, ANTENNAS))
    scenario = FullDuplexConfig(self_interference=-100.0)
    bank = bank_from_file(tmp_path / "H.npy", "downlink:H:BKN", users="3+2", scenario=scenario)
    assert not bank.noise_normalised
    assert (bank.channels.downlink_users, bank.channels.uplink_users) == (3, 2)
    assert "cross and self_interference are not in the file and are drawn" in told()
    leak = bank.channels.self_interference.abs().square().mean()
    assert abs(10 * leak.log10() + 100) < 0.5  # dB below the transmit power
    np.testing.assert_allclose(bank.gains.self_interference.numpy(), 1e-10, rtol=1e-3)


def test_reciprocity_makes_the_uplink_of_the_last_users(tmp_path):
    array = cell()
    np.save(tmp_path / "H.npy", array)
    transposed = bank_from_file(tmp_path / "H.npy", "downlink:H:BKN", users="2+1", unit="noise").channels
    np.testing.assert_allclose(transposed.downlink.numpy(), array[:, :2].conj(), rtol=1e-5)
    np.testing.assert_allclose(transposed.uplink.numpy(), array[:, 2:], rtol=1e-5)
    hermitian = bank_from_file(tmp_path / "H.npy", "downlink:H:BKN", users="2+1", conjugate=False).channels
    np.testing.assert_allclose(hermitian.downlink.numpy(), array[:, :2], rtol=1e-5)
    np.testing.assert_allclose(hermitian.uplink.numpy(), array[:, 2:].conj(), rtol=1e-5)


def test_all_four_channels_may_be_in_a_file(tmp_path):
    content = {
        "Hd": cell(),
        "Hu": cell(5)[..., :2],
        "F": normal(USERS, USERS, STATES),
        "S": normal(STATES, 2, ANTENNAS),
    }
    scipy_io.savemat(tmp_path / "all.mat", content)
    told = "downlink:Hd:BKN,uplink:Hu:BKN,cross:F:KJB,self_interference:S:BRN"
    channels = bank_from_file(tmp_path / "all.mat", told, unit="noise").channels
    np.testing.assert_allclose(channels.uplink.numpy(), content["Hu"], rtol=1e-5)
    np.testing.assert_allclose(channels.cross.numpy(), content["F"].transpose(2, 0, 1), rtol=1e-5)
    np.testing.assert_allclose(channels.self_interference.numpy(), content["S"], rtol=1e-5)


# ------------------------------------------------------------------ units


def test_the_unit_is_told_by_the_level_and_snr_sets_it(tmp_path, told):
    for name, level in (("raw", 1e-5), ("over", 30.0), ("bare", 1.0)):
        np.save(tmp_path / f"{name}.npy", level * normal(STATES, USERS, ANTENNAS))
    assert not bank_from_file(tmp_path / "raw.npy").noise_normalised
    assert "taken to be the gain of the propagation" in told()
    assert bank_from_file(tmp_path / "over.npy").noise_normalised
    with pytest.raises(InputError, match=r"fading without path loss or power; say snr=20"):
        bank_from_file(tmp_path / "bare.npy")
    bank = bank_from_file(tmp_path / "bare.npy", snr=13.0)
    assert float(10 * bank.gains.downlink.mean().log10()) == pytest.approx(13.0, abs=1e-3)


def test_what_looks_wrong_is_said(tmp_path, told):
    array = cell()
    array[3] = 0
    array[5, 1] = 0
    np.save(tmp_path / "holes.npy", array)
    assert len(bank_from_file(tmp_path / "holes.npy", unit="noise")) == STATES - 1
    assert "1 state of 40 in which every channel is 0" in told()
    assert "1 user in 39 states have no path" in told()
    normalised = array[6:] / np.linalg.norm(array[6:], axis=-1, keepdims=True)
    np.save(tmp_path / "equal.npy", normalised)
    bank_from_file(tmp_path / "equal.npy", snr=10.0)
    assert "all users have the same mean gain" in told()
    content = {
        "downlink": 1e-5 * array[6:],
        "uplink": 1e-5 * array[6:],
        "self_interference": normal(34, ANTENNAS, ANTENNAS),
    }
    np.savez(tmp_path / "loud.npz", **(content | {"self_interference": 0.3 * content["self_interference"]}))
    bank_from_file(tmp_path / "loud.npz", unit="propagation")
    assert "as before any cancellation" in told()
    np.savez(tmp_path / "loud.npz", **(content | {"self_interference": 30 * content["self_interference"]}))
    with pytest.raises(InputError, match=r"self-interference is \d+ dB above the transmit power"):
        bank_from_file(tmp_path / "loud.npz", unit="propagation")


# ------------------------------------------------------------------ the command


def test_three_commands_need_no_more_than_the_file(tmp_path, capsys):
    scipy_io.savemat(tmp_path / "H.mat", {"H": cell()})
    channels_command([f"from={tmp_path / 'H.mat'}", f"out={tmp_path / 'bank.npz'}"])
    printed = capsys.readouterr().out
    keys = dict(one.removeprefix("scenario.").split("=") for one in printed.split() if one.startswith("scenario."))
    assert keys.pop("channel_bank") == str(tmp_path / "bank.npz")
    assert keys == {"downlink_users": "3", "uplink_users": "0", "transmit_antennas": "4"}
    # receive antennas that nobody uses need not be told
    users = {"downlink_users": 3, "uplink_users": 0, "transmit_antennas": 4}
    state = evaluation_states(FullDuplexConfig(**users, channel_bank=str(tmp_path / "bank.npz")), 8, 0)
    found = load_bank(tmp_path / "bank.npz").channels.downlink
    assert state.channels.self_interference.shape == (8, 8, 4)
    assert all(any(torch.equal(one, other) for other in found[-8:]) for one in state.channels.downlink)


# ------------------------------------------------------------------ mistakes


class Evil:
    """What a file from a stranger may hold."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_objects_are_refused_and_their_code_is_not_run(tmp_path, kind):
    trace, path = tmp_path / "trace", tmp_path / f"evil.{kind}"
    content = np.array([{"channel": Evil(trace)}], dtype=object)
    if kind == "npy":
        np.save(path, content, allow_pickle=True)
    else:
        np.savez(path, H=content)
    pickle.loads(pickle.dumps(content))
    trace.unlink()
    with pytest.raises(InputError, match=r"holds objects .* instead of numbers, which are never loaded"):
        bank_from_file(path)
    assert not trace.exists()


@pytest.mark.parametrize("ending", WRITERS)
def test_a_file_cut_short_is_one_message_and_nothing_is_written(tmp_path, ending):
    path = tmp_path / f"H.{ending}"
    WRITERS[ending](path, {"H": cell()})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cannot be read: it is damaged or not what its name says") as caught:
        channels_command([f"from={path}", f"out={tmp_path / 'bank.npz'}"])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bank.npz").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("H.csv", b"1,2", "is no file of arrays; its name must end in one of .mat"),
        ("H.mat", b"no file of MATLAB at all, just text " * 9, "cannot be read: it is damaged or not what"),
        ("H.h5", b"text", "is no HDF5 file, whatever its name says"),
        ("H.npy", b"", "cannot be read"),
        (
            "H.mat",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n",
            "is a pointer of Git LFS, not the file",
        ),
        ("H.h5", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "git lfs pull fetches that"),
        ("H.npz", b"<!DOCTYPE html><html>Sign in</html>", "is a web page, as of a download that wanted a login"),
    ],
)
def test_a_file_that_is_none_of_these_kinds_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        bank_from_file(tmp_path / name)


@pytest.mark.parametrize("name", ["bank.npz", "bank.pt"])
def test_a_bank_that_is_a_pointer_to_one_is_told(tmp_path, name):
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="is a pointer of Git LFS"):
        load_bank(tmp_path / name)


@pytest.mark.parametrize("ending", ["mat", "npz"])
def test_a_file_larger_than_memory_is_refused_where_it_cannot_be_read_in_parts(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(convert_channels, "installed_bytes", lambda: 1000)
    for kind in (ending, "h5"):
        WRITERS[kind](tmp_path / f"H.{kind}", {"H": cell()})
    with pytest.raises(InputError, match=r"GiB, which must be read at once.*write it as HDF5"):
        bank_from_file(tmp_path / f"H.{ending}")
    bank_from_file(tmp_path / "H.h5")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("downlink:G:BKN", r"there is no G.*The file holds H \(40, 3, 4\)"),
        ("downlink:HH:BKN", "there is no HH. Did you mean H"),
        ("down:H:BKN", "down is no kind of channel; they are downlink"),
        ("downlink:H:BKNT", r"names 4 axes, and H has shape \(40, 3, 4\)"),
        ("downlink:H:BKQ", "axes that are unknown or there twice; the letters are B states"),
        ("downlink:H:BKK", "axes that are unknown or there twice"),
        ("downlink:H:BKT", "must have the axes K and N"),
        ("downlink:H:UBN", "U in place of B and K: a list of users; or K and U"),
        ("downlink:H:CKN", "axis C must be of size 2"),
        ("downlink:M:BKN", "M .* is real, and channels are complex: magnitudes or dB alone cannot be used"),
        ("downlink:H:BKN,downlink:H:BKN", "downlink is there twice"),
        ("H", "must be KIND:NAME:AXES"),
        ("cross:H:BKJ", "cross alone are no channels of a cell"),
    ],
)
def test_a_map_that_cannot_be_is_named(tmp_path, text, message):
    np.savez(tmp_path / "H.npz", H=cell(), M=np.abs(cell()))
    with pytest.raises(InputError, match=message):
        bank_from_file(tmp_path / "H.npz", text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"users": "0+0"}, "must be K_D[+]K_U"),
        ({"users": "3+2"}, "has 3 users in a state; users=3[+]2 asks for more"),
        ({"unit": "propagation"}, "no passive channel amplifies"),
        ({"unit": "noise", "snr": 3.0}, "exclude each other"),
    ],
)
def test_options_that_cannot_be_are_named(tmp_path, options, message):
    np.save(tmp_path / "H.npy", cell())
    with pytest.raises(InputError, match=message):
        bank_from_file(tmp_path / "H.npy", "downlink:H:BKN", **options)


def test_a_list_too_short_for_the_users_of_a_state_is_named(tmp_path):
    np.save(tmp_path / "H.npy", LEVEL * normal(12, ANTENNAS))
    with pytest.raises(InputError, match=r"is a list of 12 users; say how many a state has, such as users=8[+]0"):
        bank_from_file(tmp_path / "H.npy", "downlink:H:UN")
    with pytest.raises(InputError, match=r"has 12 users with a path; users=3[+]0 needs 15 at least"):
        bank_from_file(tmp_path / "H.npy", "downlink:H:UN", users="3+0")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(tmp_path, bad):
    array = cell()
    array[7, 1, 2] = bad
    np.save(tmp_path / "H.npy", array)
    with pytest.raises(
        InputError, match=rf"H holds NaN .* axis B \(states\): at 1 of {STATES}, the first at 7\. Remove"
    ):
        bank_from_file(tmp_path / "H.npy")


def test_a_link_of_hdf5_that_leads_nowhere_is_no_array(tmp_path):
    save_h5(tmp_path / "H.h5", {"H": cell()})
    with h5py.File(tmp_path / "H.h5", "a") as file:
        file["gone"] = h5py.ExternalLink("nowhere.h5", "/H")
    assert len(bank_from_file(tmp_path / "H.h5")) == STATES


def test_nothing_but_zeros_is_nobody_to_serve(tmp_path):
    np.save(tmp_path / "H.npy", 0 * cell())
    with pytest.raises(InputError, match="every channel is 0; there is nobody to serve"):
        bank_from_file(tmp_path / "H.npy")


def test_keys_without_an_effect_are_refused(tmp_path):
    np.save(tmp_path / "H.npy", cell())
    source, out = f"from={tmp_path / 'H.npy'}", f"out={tmp_path / 'bank.npz'}"
    with pytest.raises(ConfigError, match="model=uma changes nothing with from="):
        channels_command([source, out, "model=uma"])
    with pytest.raises(ConfigError, match="snr=20 changes nothing without from="):
        channels_command([out, "snr=20"])
    with pytest.raises(ConfigError, match=r"scenario\.uplink_users=2 changes nothing with from="):
        channels_command([source, out, "scenario.uplink_users=2"])
    with pytest.raises(InputError, match="does not exist"):
        channels_command([f"from={tmp_path / 'none.mat'}", out])

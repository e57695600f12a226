"""Banks of channel states: what a file holds comes back, and what cannot be used is named."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from d2rl.common.errors import InputError
from d2rl.wireless import ChannelState
from d2rl.wireless.bank_file import load_bank, save_bank
from d2rl.wireless.channel_bank import ChannelBank, estimated_gains
from d2rl.wireless.fading import complex_normal
from d2rl.wireless.propagation import LinkBudget, LinkGains, Positions

CPU = torch.device("cpu")


def arrays(*lead: int, seed: int = 0, level: float = 30.0) -> dict[str, np.ndarray]:
    """What measured CSI of 3 + 2 users and 4 + 5 antennas looks like: |h|^2 of ``level`` on average."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"downlink": (3, 4), "uplink": (2, 5), "cross": (2, 3), "self_interference": (5, 4)}
    return {
        name: (level**0.5 * complex_normal((*lead, *shape), generator, CPU)).numpy() for name, shape in shapes.items()
    }


def write(path: Path, content: dict) -> Path:
    """The same arrays as .npz or .pt."""
    if path.suffix == ".npz":
        np.savez(path, **content)
    else:
        torch.save({k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in content.items()}, path)
    return path


def full_bank(**changes) -> ChannelBank:
    channels = ChannelState(**{name: torch.from_numpy(array) for name, array in arrays(12).items()})
    gains = {name: 2 * gain for name, gain in estimated_gains(channels).tensors().items()}
    places = Positions(torch.randn(12, 3, 2), torch.randn(12, 2, 2))
    bank = ChannelBank(channels, LinkGains(**gains), torch.rand(12, 5) + 0.1, places, 1, True, "a test")
    return replace(bank, **changes)


def everything(bank: ChannelBank) -> list[torch.Tensor]:
    return [
        *bank.channels.tensors().values(),
        *bank.gains.tensors().values(),
        bank.weights,
        *(bank.positions or ()),
    ]


# ------------------------------------------------------------------ what works


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("ending", ["npz", "pt"])
def test_a_saved_bank_comes_back(tmp_path, ending, slots):
    bank = full_bank(slots=slots, noise_normalised=False)
    bank = replace(bank, channels=bank.channels.map(lambda tensor: 1e-4 * tensor))
    save_bank(bank, tmp_path / f"new/bank.{ending}")
    found = load_bank(tmp_path / f"new/bank.{ending}")
    for before, after in zip(everything(bank), everything(found), strict=True):
        assert torch.equal(before, after)
    assert (found.slots, found.noise_normalised, found.about) == (slots, False, "a test")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"bank.{ending}"]


@pytest.mark.parametrize("ending", ["npz", "pt"])
def test_plain_arrays_are_enough(tmp_path, ending):
    content = arrays(6)
    bank = load_bank(write(tmp_path / f"a.{ending}", {name: a.astype(np.complex128) for name, a in content.items()}))
    assert len(bank) == 6
    assert bank.noise_normalised
    assert torch.equal(bank.weights, torch.ones(6, 5))
    for name, array in content.items():
        stored = getattr(bank.channels, name)
        assert stored.dtype == torch.complex64
        np.testing.assert_array_equal(stored.numpy(), array)


def test_gains_that_are_not_stored_are_means_over_antennas(tmp_path):
    content = arrays(6)
    gains = load_bank(write(tmp_path / "a.npz", content)).gains
    for name in ("downlink", "uplink"):
        expected = (np.abs(content[name].astype(complex)) ** 2).mean(-1)
        np.testing.assert_allclose(getattr(gains, name), expected, rtol=1e-5)
    np.testing.assert_allclose(gains.cross, np.abs(content["cross"]) ** 2, rtol=1e-5)
    np.testing.assert_allclose(
        gains.self_interference, (np.abs(content["self_interference"]) ** 2).mean((-2, -1)), rtol=1e-5
    )


def test_a_time_axis_makes_episodes_whose_mean_gains_are_their_own(tmp_path):
    content = {**arrays(3, 4), "gain_uplink": np.arange(1.0, 7.0).reshape(3, 2)}
    bank = load_bank(write(tmp_path / "a.npz", content))
    assert (len(bank), bank.slots) == (12, 4)
    np.testing.assert_array_equal(bank.channels.downlink.unflatten(0, (3, 4)).numpy(), content["downlink"])
    cross = (np.abs(content["cross"]) ** 2).mean(1)
    np.testing.assert_allclose(bank.gains.cross.unflatten(0, (3, 4)).numpy(), np.stack([cross] * 4, 1), rtol=1e-5)
    assert bank.gains.uplink[4:8].tolist() == [[3, 4]] * 4  # what has no time axis holds in all slots


@pytest.mark.parametrize(("lead", "kept"), [((10,), 2), ((4,), 1), ((2,), 1), ((10, 3), 6), ((2, 5), 5), ((103,), 20)])
def test_the_last_fifth_of_the_episodes_is_kept_for_evaluation(tmp_path, lead, kept):
    bank = load_bank(write(tmp_path / "a.npz", arrays(*lead)))
    training, evaluation = bank.split()
    assert len(evaluation) == kept
    for whole, first, last in zip(*map(everything, (bank, training, evaluation)), strict=True):
        assert torch.equal(torch.cat([first, last]), whole)
    assert training.slots == evaluation.slots == bank.slots


def test_raw_gains_get_the_link_budget(tmp_path):
    raw = {name: 1e-5 * array for name, array in arrays(4).items()}
    bank = load_bank(write(tmp_path / "a.npz", {**raw, "noise_normalised": False}))
    budget = LinkBudget(30.0, 20.0, -90.0, -95.0, self_interference=-100.0, path_loss="los")
    found = bank.normalised(budget)
    powers = {"downlink": 120, "uplink": 115, "cross": 110, "self_interference": 125}  # dB over noise
    for name, db in powers.items():
        channel, gain = getattr(found.channels, name), getattr(found.gains, name)
        np.testing.assert_allclose(channel.numpy(), 10 ** (db / 20) * raw[name], rtol=1e-4)
        np.testing.assert_allclose(gain.numpy(), 10 ** (db / 10) * getattr(bank.gains, name).numpy(), rtol=1e-4)
    assert found.noise_normalised
    assert found.normalised(budget) is found


def test_an_older_file_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "bank.pt"
    save_bank(full_bank(), path)
    before = path.read_bytes()

    def full_disk(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(InputError, match=r"bank.pt cannot be written: No space left on device"):
        save_bank(full_bank(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------------ what cannot be used


def changed(**changes) -> dict:
    content = arrays(6)
    for key, value in changes.items():
        if value is None:
            content.pop(key)
        else:
            content[key] = value(content.get(key)) if callable(value) else value
    return content


def poisoned(array: np.ndarray) -> np.ndarray:
    array[3, 1, 2] = complex(0, np.nan)
    array[4, 0, 0] = np.inf
    return array


BAD = {
    "a key is missing": (changed(cross=None), "cross is missing"),
    "a mistyped key": (changed(gain_downlnk=np.ones((6, 3))), "gain_downlnk is not a key.*Did you mean gain_downlink"),
    "an unknown key": (changed(snr=np.ones(6)), "snr is not a key of a channel bank. They are downlink"),
    "real numbers": (changed(uplink=np.abs), "uplink must be complex, got float32; join real and imaginary"),
    "too few axes": (changed(downlink=lambda a: a[0]), r"downlink has shape \(3, 4\), it must be \(B, K_D, N_t\)"),
    "other users": (
        changed(cross=lambda a: a.transpose(0, 2, 1)),
        r"cross has shape \(6, 3, 2\), the other arrays ask for \(6, 2, 3\), which is \(B, K_U, K_D\)",
    ),
    "other antennas": (
        changed(self_interference=lambda a: a[:, :, :3]),
        r"self_interference has shape \(6, 5, 3\).*\(6, 5, 4\), which is \(B, N_r, N_t\)",
    ),
    "fewer states": (changed(uplink=lambda a: a[:5]), r"uplink has shape \(5, 2, 5\).*\(6, 2, 5\)"),
    "no states": (
        {name: array[:0] for name, array in arrays(1).items()},
        r"downlink has shape \(0, 3, 4\); a bank needs one state",
    ),
    "no users": (changed(uplink=lambda a: a[:, :0]), r"uplink has shape \(6, 0, 5\); a bank needs one state"),
    "not finite": (
        changed(downlink=poisoned),
        r"downlink is NaN or infinite in 2 places, the first at \[3, 1, 2\]",
    ),
    "too large for single precision": (
        changed(uplink=lambda a: a.astype(complex) * 1e60),
        "uplink is NaN or infinite in 60 places",
    ),
    "negative gains": (changed(gain_cross=-np.ones((6, 2, 3))), "gain_cross holds negative values; .* not in dB"),
    "complex gains": (changed(gain_uplink=np.ones((6, 2), complex)), "gain_uplink must be real, got complex128"),
    "gains that are not finite": (
        changed(gain_uplink=np.full((6, 2), np.nan)),
        "gain_uplink is NaN or infinite in 12 places",
    ),
    "gains of other shape": (changed(gain_self_interference=np.ones((6, 5))), r"gain_self_interference has shape"),
    "weights of other links": (changed(weights=np.ones((6, 3))), r"weights has shape \(6, 3\).*\(6, 5\)"),
    "negative weights": (changed(weights=-np.ones((6, 5))), "weights must not be negative"),
    "no weight at all": (changed(weights=np.zeros((6, 5))), "weights must not be negative, nor all 0"),
    "half of the positions": (changed(position_uplink=np.ones((6, 2, 2))), "belong together"),
    "positions in three dimensions": (
        changed(position_uplink=np.ones((6, 2, 3)), position_downlink=np.ones((6, 3, 3))),
        r"position_downlink has shape \(6, 3, 3\).*\(6, 3, 2\)",
    ),
    "a flag that is none": (changed(noise_normalised=np.array(2)), "noise_normalised must be true or false, got 2"),
    "raw gains": (
        {name: 1e-6 * array for name, array in arrays(6).items()},
        r"\|downlink\|\^2 has a median of -10\d dB, and the bank says noise_normalised=True: no link could carry",
    ),
    "raw gains in the uplink alone": (changed(uplink=lambda a: 1e-6 * a), r"\|uplink\|\^2 has a median of -"),
    "normalised gains called raw": (changed(noise_normalised=False), "noise_normalised=False: no passive channel"),
    "gains in dB": (changed(downlink=lambda a: 1e9 * a), "more than any transmit power over noise"),
}


@pytest.mark.parametrize("ending", ["npz", "pt"])
@pytest.mark.parametrize("case", BAD)
def test_a_bank_that_cannot_be_used_is_named_with_the_key(tmp_path, case, ending):
    content, message = BAD[case]
    path = write(tmp_path / f"mine.{ending}", content)
    with pytest.raises(InputError, match=rf"mine\.{ending}: .*{message}") as caught:
        load_bank(path)
    assert "\n" not in str(caught.value)


class Evil:
    """What a file from a stranger may hold."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("writer", ["torch", "pickle", "object array", "pickle called npz"])
def test_code_in_a_bank_is_not_run(tmp_path, writer):
    trace, path = tmp_path / "trace", tmp_path / ("a.pt" if writer in ("torch", "pickle") else "a.npz")
    content = {**arrays(2), "about": Evil(trace)}
    if writer == "torch":
        torch.save(content, path)
        torch.load(path, weights_only=False)
    elif writer == "object array":
        np.savez(path, **{**content, "about": np.array([Evil(trace)], dtype=object)})
        np.load(path, allow_pickle=True)["about"]
    else:
        path.write_bytes(pickle.dumps(content))
        pickle.loads(path.read_bytes())
    assert trace.exists()  # it would have run
    trace.unlink()
    message = r"a\.\w+ cannot be read: it is damaged, or holds more than plain arrays"
    with pytest.raises(InputError, match=message) as caught:
        load_bank(path)
    assert not trace.exists()
    assert not re.search("allow_pickle|weights_only|load failed", str(caught.value))  # no advice to run it


@pytest.mark.parametrize("ending", ["npz", "pt"])
@pytest.mark.parametrize("kind", ["missing", "empty", "truncated", "random", "a list", "folder"])
def test_a_damaged_file_is_named(tmp_path, ending, kind):
    path = tmp_path / f"a.{ending}"
    if kind == "folder":
        path.mkdir()
    elif kind == "a list":
        torch.save([1, 2], path)
    elif kind == "truncated":
        content = write(path, arrays(6)).read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif kind != "missing":
        path.write_bytes(b"" if kind == "empty" else bytes(range(256)) * 20)
    with pytest.raises(InputError, match=rf"a\.{ending}[: ]") as caught:
        load_bank(path)
    assert "\n" not in str(caught.value)


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"bank.mat is not a channel bank; its name must end in .npz or .pt"):
        load_bank(tmp_path / "bank.mat")
    with pytest.raises(InputError, match=r"bank.mat is not a channel bank"):
        save_bank(full_bank(), tmp_path / "bank.mat")
    assert list(tmp_path.iterdir()) == []

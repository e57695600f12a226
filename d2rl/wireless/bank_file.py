"""The file of a channel bank, .npz or .pt; its layout is told in docs/channels.md."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2rl.common.errors import InputError, counted, meant
from d2rl.common.files import replacing, writing
from d2rl.wireless.array_files import refuse_stand_in
from d2rl.wireless.bank_axes import misfit, shown, suspicions
from d2rl.wireless.channel_bank import ChannelBank, estimated_gains
from d2rl.wireless.channel_state import ChannelState, with_silent_direction
from d2rl.wireless.propagation import LinkGains, Positions

COEFFICIENTS = {
    "downlink": ("K_D", "N_t"),
    "uplink": ("K_U", "N_r"),
    "cross": ("K_U", "K_D"),
    "self_interference": ("N_r", "N_t"),
}
GAINS = {
    "gain_downlink": ("K_D",),
    "gain_uplink": ("K_U",),
    "gain_cross": ("K_U", "K_D"),
    "gain_self_interference": (),
}
POSITIONS = {"position_downlink": ("K_D", "2"), "position_uplink": ("K_U", "2")}
OPTIONAL = {**GAINS, **POSITIONS, "weights": ("K_D + K_U",)}
KEYS = (*COEFFICIENTS, *OPTIONAL, "noise_normalised", "about")
SUFFIXES = (".npz", ".pt")
CONVERTIBLE = (".mat", ".h5", ".hdf5", ".npy")

# median |h|^2 of a user's coefficient, dB: weaker over noise than any link that is used, stronger than 26 dBm
# without path loss, stronger than a passive channel can be
NORMALISED_RANGE_DB = (-60.0, 150.0)
RAW_CEILING_DB = 0.0


def save_bank(bank: ChannelBank, path: str | Path) -> None:
    """Write a bank as .npz or .pt, whole or not at all.

    :raises InputError: another ending, or a place that cannot be written
    """
    path, content = Path(path), _content(bank)
    check_name(path)
    with writing(str(path), "choose another place", InputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            if path.suffix == ".pt":
                torch.save(content, file)
            else:
                arrays: dict[str, Any]
                arrays = {k: v.numpy() if isinstance(v, Tensor) else np.asarray(v) for k, v in content.items()}
                np.savez(file, **arrays)


def load_bank(path: str | Path) -> ChannelBank:
    """Read and check a bank; nothing that the file may carry is executed.

    :raises InputError: names the file, the key and the remedy
    """
    path = Path(path)
    content = _Checked(path, _read(path))
    coefficients = content.coefficients()
    slots = coefficients["downlink"].shape[1]
    channels = ChannelState(**{name: tensor.flatten(0, 1) for name, tensor in coefficients.items()})
    for text in suspicions({name: tensor for name, tensor in coefficients.items() if name != "cross"}):
        logging.getLogger(__name__).warning(f"{path}: {text}")
    normalised, gains = content.flag("noise_normalised", True), estimated_gains(channels, slots).tensors()
    content.check_units(gains, normalised)
    for key in GAINS:
        if (stored := content.real(key)) is not None:
            if bool((stored < 0).any()):
                raise content.error(f"{key} holds negative values; it is a power gain, linear, not in dB")
            gains[key.removeprefix("gain_")] = stored
    weights = content.real("weights")
    if weights is not None and (bool((weights < 0).any()) or not bool((weights > 0).any(-1).all())):
        raise content.error("weights must not be negative, nor all 0 in a state")
    places = [place for key in POSITIONS if (place := content.real(key)) is not None]
    if len(places) == 1:
        raise content.error(f"{' and '.join(POSITIONS)} belong together; give both or none")
    return ChannelBank(
        channels,
        LinkGains(**gains),
        torch.ones(channels.batch, channels.links) if weights is None else weights,
        Positions(*places) if places else None,
        slots,
        normalised,
        content.text("about"),
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _content(bank: ChannelBank) -> dict[str, Any]:
    arrays = bank.channels.active()
    arrays |= {f"gain_{name}": getattr(bank.gains, name) for name in arrays}
    arrays["weights"] = bank.weights
    if bank.positions is not None:
        arrays |= dict(zip(POSITIONS, bank.positions, strict=True))
    if bank.slots > 1:
        arrays = {name: array.unflatten(0, (-1, bank.slots)) for name, array in arrays.items()}
    # cloned, since torch.save writes the whole of what a view is a part of
    arrays = {name: array.cpu().resolve_conj().clone() for name, array in arrays.items()}
    return {**arrays, "noise_normalised": bank.noise_normalised, "about": bank.about}


def check_name(path: str | Path) -> None:
    """Whether a bank can have this name. :raises InputError: it cannot"""
    if Path(path).suffix not in SUFFIXES:
        raise InputError(f"{path} is not a channel bank; its name must end in {' or '.join(SUFFIXES)}.")


def _read(path: Path) -> dict[str, Any]:
    """Plain content of the file, whatever it is."""
    if path.suffix in CONVERTIBLE:
        raise InputError(
            f"{path} is not a channel bank; its name must end in {' or '.join(SUFFIXES)}. d2rl-channels "
            f"from={path} out={path.with_suffix('.npz')} makes one of it."
        )
    check_name(path)
    try:
        refuse_stand_in(path)
        if path.suffix == ".pt":
            content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            with np.load(path, allow_pickle=False) as file:
                content = {key: file[key] for key in file.files}
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the path of a channel bank.") from None
    except Exception as error:  # of a file from anywhere, any reader may raise anything
        if reason := getattr(error, "strerror", None):
            raise InputError(f"{path} cannot be read: {reason}; give the path of a channel bank.") from None
        raise InputError(  # without the readers' own advice, to load it whatever it holds
            f"{path} cannot be read: it is damaged, or holds more than plain arrays, which is never loaded. Write it "
            "with numpy.savez or torch.save of a dictionary of arrays."
        ) from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path} must hold a dictionary of arrays named {', '.join(COEFFICIENTS)}.")
    return content


class _Checked:
    """Content of a bank's file, each value checked as it is taken out."""

    def __init__(self, path: Path, content: dict[str, Any]):
        self.path, self.content, self.sizes = path, content, {"2": 2}
        for key in content:
            if key not in KEYS:
                names = meant(key, KEYS) or f" They are {', '.join(KEYS)}."
                raise self.error(f"{key} is not a key of a channel bank.{names}")

    def error(self, message: str) -> InputError:
        return InputError(f"{self.path}: {message}")

    def coefficients(self) -> dict[str, Tensor]:
        """The four channels [B, T, ...], complex64."""
        missing = [key for key in COEFFICIENTS if key not in self.content]
        alone = missing in (["uplink", "cross", "self_interference"], ["downlink", "cross", "self_interference"])
        tensors: dict[str, Tensor] = {}
        for key in COEFFICIENTS:
            if key not in self.content:
                if alone:
                    continue
                raise self.error(f"{key} is missing; a bank needs {', '.join(COEFFICIENTS)}, or one direction alone.")
            tensor = self._tensor(key)
            if not tensor.is_complex():
                kind = str(tensor.dtype).removeprefix("torch.")
                raise self.error(
                    f"{key} must be complex, got {kind}; join real and imaginary parts as re + 1j * im first"
                )
            if not tensors:
                if tensor.dim() not in (3, 4):
                    own = ", ".join(COEFFICIENTS[key])
                    raise self.error(
                        f"{key} has shape {tuple(tensor.shape)}, it must be (B, {own}), with a time axis (B, T, {own})"
                    )
                self.lead = tuple(tensor.shape[:-2])
            if 0 in tensor.shape:
                raise self.error(
                    f"{key} has shape {shown(tuple(tensor.shape))}; a bank needs one state, user and antenna at least"
                )
            tensors[key] = tensor.to(torch.complex64)
        if alone:
            tensors = with_silent_direction(tensors)
        lead = ("B", "T")[: len(self.lead)]
        axes = {key: (*lead, *own) for key, own in COEFFICIENTS.items()}
        if wrong := misfit({key: tuple(tensor.shape) for key, tensor in tensors.items()}, axes):
            raise self.error(wrong)
        return {key: self._shaped(key, tensor, COEFFICIENTS[key]) for key, tensor in tensors.items()}

    def real(self, key: str) -> Tensor | None:
        """An optional array [N, ...], float32; what has no time axis holds for all slots."""
        if key not in self.content:
            return None
        tensor = self._tensor(key)
        if tensor.is_complex() or tensor.dtype == torch.bool:
            raise self.error(f"{key} must be real, got {str(tensor.dtype).removeprefix('torch.')}")
        axes = OPTIONAL[key]
        if len(self.lead) == 2 and tensor.dim() == 1 + len(axes):
            tensor = tensor.unsqueeze(1).expand(-1, self.lead[1], *tensor.shape[1:])
        return self._shaped(key, tensor.to(torch.float32), axes).flatten(0, 1)

    def flag(self, key: str, default: bool) -> bool:
        """An optional truth value."""
        value = self._scalar(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key} must be true or false, got {str(value)[:40]}")
        return value

    def text(self, key: str) -> str:
        """An optional text."""
        value = self._scalar(key, "")
        if not isinstance(value, str):
            raise self.error(f"{key} must be text, got {type(value).__name__}")
        return value

    def check_units(self, gains: dict[str, Tensor], normalised: bool) -> None:
        """Catch a bank whose numbers are of another kind than it says."""
        for key in COEFFICIENTS:
            if not gains[key].numel():
                continue
            median = float(10 * gains[key].clamp_min(1e-37).median().log10())
            low, high = NORMALISED_RANGE_DB
            level = f"|{key}|^2 has a median of {median:.0f} dB, and the bank says noise_normalised="
            if normalised and median < low and key in ("downlink", "uplink"):
                raise self.error(
                    f"{level}True: no link could carry anything. Raw amplitude gains need noise_normalised=False, so "
                    "that the scenario's transmit powers and noise are applied"
                )
            if normalised and median > high:
                raise self.error(f"{level}True: more than any transmit power over noise. Divide by the noise amplitude")
            if not normalised and median > RAW_CEILING_DB:
                raise self.error(
                    f"{level}False: no passive channel amplifies. Is it over noise already (noise_normalised=True), "
                    "or in dB?"
                )

    def _scalar(self, key: str, default: bool | str) -> Any:
        value = self.content.get(key, default)
        return value.item() if isinstance(value, np.ndarray | Tensor) and value.ndim == 0 else value

    def _tensor(self, key: str) -> Tensor:
        value = self.content[key]
        if isinstance(value, Tensor):
            return value.detach().resolve_conj().resolve_neg()
        try:
            return torch.from_numpy(np.ascontiguousarray(value))
        except (TypeError, ValueError):
            kind = getattr(getattr(value, "dtype", None), "name", type(value).__name__)
            raise self.error(f"{key} must be an array of numbers, got {kind}") from None

    def _shaped(self, key: str, tensor: Tensor, axes: tuple[str, ...]) -> Tensor:
        """The tensor as [B, T, ...], of finite values."""
        lead = ("B", "T")[: len(self.lead)]
        wanted = (*lead, *axes)
        known = dict(zip(lead, self.lead, strict=True)) | self.sizes
        shape = tuple(tensor.shape)
        if len(shape) == len(wanted):
            self.sizes |= {axis: size for axis, size in zip(wanted, shape, strict=True) if axis not in known}
            if {"K_D", "K_U"} <= self.sizes.keys():
                self.sizes["K_D + K_U"] = self.sizes["K_D"] + self.sizes["K_U"]
            known = self.sizes | known
        expected = tuple(known.get(axis, axis) for axis in wanted)
        if shape != expected:
            raise self.error(
                f"{key} has shape {shown(shape)}, the other arrays ask for {shown(expected)}, which is {shown(wanted)}"
            )
        finite = torch.isfinite(torch.view_as_real(tensor) if tensor.is_complex() else tensor)
        finite = finite.all(-1) if tensor.is_complex() else finite
        if not bool(finite.all()):
            wrong = (~finite).nonzero()
            raise self.error(
                f"{key} is NaN or infinite in {counted(len(wrong), 'place')}, the first at {wrong[0].tolist()}; remove "
                "those states"
            )
        return tensor if len(lead) == 2 else tensor.unsqueeze(1)

"""The state of a cell whose channels a caller of the library has at hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from d2rl.common.errors import InputError, first_line
from d2rl.common.notices import notice_once
from d2rl.problems.full_duplex.simulator import CellState
from d2rl.wireless.bank_axes import misfit
from d2rl.wireless.bank_file import COEFFICIENTS, NORMALISED_RANGE_DB
from d2rl.wireless.channel_bank import estimated_gains
from d2rl.wireless.channel_state import ChannelState, with_silent_direction
from d2rl.wireless.propagation import LinkGains

NAMES = tuple(field.name for field in fields(ChannelState))
ORDER = {name: ("B", *axes) for name, axes in COEFFICIENTS.items()}


def given_state(channels: Any, weights: Any, device: torch.device) -> tuple[CellState, bool]:
    """What a policy decides on: these channels, taken to be true and known.

    :param channels: a :class:`CellState`, a :class:`ChannelState`, or a mapping with its names, tensors or arrays;
        of one direction alone (half duplex) ``downlink``, or ``uplink``
    :param weights: [K] or [B, K], priority of every link; None: those of the state, or 1
    :returns: the state on ``device``, and whether the channels are arrays
    :raises InputError: a name that is missing or unknown, shapes that do not fit, values that are not finite
    """
    arrays = False
    if isinstance(channels, CellState):
        state = channels.to(device)
    else:
        known, arrays = _channels(channels)
        known = known.to(device).validate()
        gains = estimated_gains(known)
        _notice_level(gains)
        links = torch.ones(known.downlink.shape[0], known.links, device=device)
        state = CellState(known, known, gains, links)
    if weights is not None:
        state = replace(state, weights=_weights(weights, state.weights))
    return state, arrays


def _channels(channels: Any) -> tuple[ChannelState, bool]:
    if isinstance(channels, ChannelState):
        return channels, False
    if not isinstance(channels, Mapping):
        raise InputError(
            f"channels must be a ChannelState or a mapping with {_list(NAMES)}, not {type(channels).__name__}."
        )
    if unknown := [str(name) for name in channels if name not in NAMES]:
        raise InputError(f"channels hold {_list(unknown)}, which is unknown; they need {_list(NAMES)}.")
    missing = [name for name in NAMES if name not in channels]
    if missing and list(channels) not in (["downlink"], ["uplink"]):
        raise InputError(
            f"channels lack {_list(missing)}; they need {_list(NAMES)}, or downlink or uplink alone, see "
            "d2rl.wireless.ChannelState."
        )
    parts = {name: _complex(channels[name], f"channels.{name}") for name in channels}
    if not missing and (wrong := misfit({name: tuple(parts[name].shape) for name in NAMES}, ORDER)):
        raise InputError(f"channels: {wrong}.")
    alone = missing and next(iter(parts.values())).dim() == 3
    state = ChannelState(**(with_silent_direction(parts) if alone else parts))
    return state, not any(isinstance(channel, Tensor) for channel in channels.values())


def _complex(value: Any, name: str) -> Tensor:
    tensor = _tensor(value, name)
    if not tensor.is_complex():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise InputError(f"{name} must be complex, got {kind}; join real and imaginary parts as re + 1j * im first.")
    return tensor.to(torch.complex64)


def _notice_level(gains: LinkGains) -> None:
    """Say where numbers are no signal-to-noise ratios."""
    for name in ("downlink", "uplink"):
        positive = (gain := getattr(gains, name))[gain > 0]
        level = 10 * math.log10(positive.median()) if len(positive) else 0.0
        if not NORMALISED_RANGE_DB[0] <= level <= NORMALISED_RANGE_DB[1]:
            notice_once(
                f"channels.{name} has a median gain |h|^2 of {level:.0f} dB, where the SNR at full power belongs: "
                "multiply gains of the propagation by sqrt(P / noise power), as d2rl-channels does with a file of them."
            )


def _weights(weights: Any, like: Tensor) -> Tensor:
    given = _tensor(weights, "weights").to(like)
    if given.shape not in (like.shape, like.shape[1:]):
        raise InputError(
            f"weights have shape {tuple(given.shape)}; they must be {tuple(like.shape[1:])}, one per link."
        )
    if not bool((given.isfinite() & (given >= 0)).all()):
        raise InputError("weights must be finite, none negative.")
    return given.expand_as(like)


def _tensor(value: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} cannot be read as numbers: {first_line(error)}.") from None


def _list(names: Any) -> str:
    return ", ".join(names)

"""What the arrays of a channel bank tell about the order of their axes, and about phases that were lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations

from torch import Tensor

Shape = tuple[int, ...]
Axes = Mapping[str, tuple[str, ...]]  # the axes that each array must have

FLOOR = 1e-12  # of the strongest coefficient of a state, power below which it counts as silent
USERS, ANTENNAS = -2, -1


def misfit(shapes: dict[str, Shape], axes: Axes) -> str | None:
    """Which arrays to blame where the shapes do not fit together, and how to mend it; None if they do, or unknown.

    :param shapes: of the arrays that belong together, by name
    """
    if _sizes(shapes, axes) is not None:
        return None
    for names, order in _orders(tuple(shapes), len(axes["downlink"])):
        turned = {name: _turned(shapes[name], order) for name in names}
        if (sizes := _sizes({**shapes, **turned}, axes)) is not None:
            mend = f"numpy.transpose(ARRAY, {order})"
            if len(names) == 1:
                return f"{_asked(names[0], shapes, axes, sizes)}; its axes stand in another order: {mend} mends it"
            wanted = "; ".join(f"{name} {shown(shapes[name])} must be {shown(axes[name])}" for name in names)
            which = "all arrays" if len(names) == len(shapes) else " and ".join(names)
            return f"{which} have their axes in another order, {wanted}: {mend} mends each"
    for name in reversed(shapes):
        others = {other: shape for other, shape in shapes.items() if other != name}
        if (sizes := _sizes(others, axes)) is not None:
            return _asked(name, shapes, axes, sizes)
    return None


def suspicions(channels: Mapping[str, Tensor]) -> list[str]:
    """What is allowed but looks like a mistake, one sentence each.

    :param channels: [B, T, ...], complex; those from and to the base station's antennas
    """
    found = []
    real = [name for name, tensor in channels.items() if bool(tensor.real.any()) and not bool(tensor.imag.any())]
    if real:
        found.append(
            f"the imaginary parts of {', '.join(real)} are all 0, and beams are made of phases; were they lost, as by "
            "numpy.real or numpy.abs?"
        )
    found += [
        f"{name} differs more from antenna to antenna (its last axis) than from user to user (the one before), as if "
        f"the two were swapped; numpy.swapaxes({name}, -2, -1) would swap them back."
        for name in ("downlink", "uplink")
        if looks_swapped(channels[name][:, 0])
    ]
    return found


def shown(shape: tuple[int | str, ...]) -> str:
    """As Python writes a tuple, names without quotes."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _sizes(shapes: Mapping[str, Shape], axes: Axes) -> dict[str, int] | None:
    """Size of every axis, None where two arrays ask for different ones."""
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        if len(shape) != len(axes[name]):
            return None
        if any(sizes.setdefault(axis, size) != size for axis, size in zip(axes[name], shape, strict=True)):
            return None
    return sizes


def _orders(names: tuple[str, ...], dims: int) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Mistakes with the order of axes, the likelier ones first: of one array, of both users' arrays, of all."""
    orders = list(permutations(range(dims)))[1:]
    for group in (*((name,) for name in reversed(names)), ("downlink", "uplink")):
        yield from ((group, order) for order in orders)
    yield from ((names, order) for order in reversed(orders))  # MATLAB and Fortran reverse them


def _turned(shape: Shape, order: tuple[int, ...]) -> Shape:
    return tuple(shape[axis] for axis in order) if len(shape) == len(order) else shape


def _asked(name: str, shapes: Mapping[str, Shape], axes: Axes, sizes: Mapping[str, int]) -> str:
    found, wanted = shown(shapes[name]), shown(tuple(sizes.get(axis, axis) for axis in axes[name]))
    return f"{name} has shape {found}, the other arrays ask for {wanted}, which is {shown(axes[name])}"


def looks_swapped(channels: Tensor) -> bool:
    """Whether powers in dB differ much more between antennas than between users, which stand at different distances.

    The two mean squares of an analysis of variance, equal for coefficients that are all alike.

    :param channels: [B, K, N]
    """
    batch, users, antennas = channels.shape
    if min(users, antennas) < 2:
        return False
    power = channels.abs().double().square()
    power = power.clamp_min(1e-300).maximum(FLOOR * power.amax((USERS, ANTENNAS), keepdim=True)).log()
    between_users = antennas * power.mean(ANTENNAS).var(-1).mean()
    between_antennas = users * power.mean(USERS).var(-1).mean()
    chance = 1.5 + 10 / (batch * (min(users, antennas) - 1)) ** 0.5  # a ratio that few states reach by themselves
    return bool(between_antennas > chance * between_users)

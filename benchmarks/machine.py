"""What this machine can do at most, and what share of it a piece of work uses; the other benchmarks stand on it.

    python benchmarks/machine.py [device=auto] [threads=1] [rounds=5] [matrix=2048] [megabytes=256] [out=FILE.csv]

The two limits are measured, not looked up: the rate of one large fp32 matrix product and the bytes per second, read
plus written, of a copy of arrays far larger than the caches.
"""

from __future__ import annotations

import csv
import io
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from d2rl.common.command_line import run
from d2rl.common.errors import ConfigError, counted
from d2rl.common.host import accelerator_device
from d2rl.config.defaults import option
from d2rl.config.load import load
from d2rl.config.schema import either

WIDTH = 160  # of a table that goes to a file
ENOUGH_ROUNDS = 2  # of what takes longer than its budget


@dataclass
class Measurement:
    """What every benchmark of speed takes."""

    device: str = option("auto", "where it runs", choices=("auto", "cpu", "gpu"))
    threads: int = option(1, "CPU threads", low=1, high=1024)
    rounds: int = option(5, "timed rounds, of which the median counts; the first is left out besides", low=1)
    seconds: float = option(4.0, "fewer rounds of what takes longer than this in all", above=0)
    clock: str = option(
        "wall", "process: time of this process alone, on a CPU that others use", choices=("wall", "process")
    )
    matrix: int = option(2048, "size of the square matrices that measure the matrix rate", low=8)
    megabytes: int = option(256, "size of the array whose copy measures the bandwidth", low=1)
    out: str | None = option(None, "CSV file to write")


@dataclass(frozen=True)
class Machine:
    """A device and its measured limits.

    :param name: for people
    :param flops: fp32 FLOP/s of a matrix product
    :param bandwidth: bytes/s of a copy
    """

    device: torch.device
    name: str
    flops: float
    bandwidth: float

    def __str__(self) -> str:
        return f"{self.name}: {self.flops / 1e9:.1f} GFLOP/s, {self.bandwidth / 1e9:.1f} GB/s"

    def shares(self, work: Work, seconds: float) -> tuple[float, float]:
        """Parts of the matrix rate and of the bandwidth that ``work`` within ``seconds`` amounts to."""
        return work.flops / seconds / self.flops, work.bytes / seconds / self.bandwidth


def machine_command(arguments: list[str]) -> None:
    """python benchmarks/machine.py [device=auto] [threads=1] [rounds=5] [matrix=2048] [megabytes=256] [out=FILE.csv]

    Measures the fp32 matrix rate and the memory bandwidth of a device.
    """
    asked = load(arguments, Measurement)
    machine = measure(asked)
    columns = {"fp32 matrix rate (GFLOP/s)": ".1f", "copy, read + written (GB/s)": ".2f"}
    report(machine.name, columns, [[machine.flops / 1e9, machine.bandwidth / 1e9]], asked.out)


def measure(asked: Measurement) -> Machine:
    """The device that was asked for, with the number of threads set and both limits measured."""
    torch.set_num_threads(asked.threads)
    device = accelerator_device(asked.device, key="device")
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    else:
        name = f"{_cpu()}, {counted(asked.threads, 'thread')}, torch {torch.__version__}"
    left, right = torch.rand(2, asked.matrix, asked.matrix, device=device)
    product, source = torch.empty_like(left), torch.zeros(asked.megabytes << 18, device=device)
    target = torch.empty_like(source)
    limits = {
        "matrix": lambda: torch.mm(left, right, out=product),
        "copy": lambda: target.copy_(source),
    }
    times = medians(limits, asked.rounds, asked.seconds, device, asked.clock)
    return Machine(device, name, 2 * asked.matrix**3 / times["matrix"], 2 * source.nbytes / times["copy"])


def medians(
    subjects: Mapping[str, Callable[[], object]],
    rounds: int,
    seconds: float,
    device: torch.device,
    clock: str = "wall",
) -> dict[str, float]:
    """Median seconds of a call of each subject, in rounds that alternate between them.

    Noise of the machine falls on all of them. The first round is left out.

    :param seconds: of all timed rounds together, after which no new one begins beyond ``ENOUGH_ROUNDS``
    """
    read = time.process_time if clock == "process" else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in subjects}
    began = None
    for number in range(rounds + 1):
        if began is not None and number > ENOUGH_ROUNDS and time.perf_counter() - began > seconds:
            break
        for name, subject in subjects.items():
            wait(device)
            begin = read()
            subject()
            wait(device)
            if number:
                times[name].append(read() - begin)
        began = began or time.perf_counter()
    return {name: statistics.median(values) for name, values in times.items()}


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Work(TorchDispatchMode):
    """Counts operators, floating-point operations and bytes of what runs within ``with Work() as work:``.

    FLOPs are those of matrix products (:mod:`torch.utils.flop_counter`, four times as many for complex numbers) and of
    factorisations and solves (textbook counts, Golub and Van Loan, *Matrix Computations*); elementwise arithmetic is
    left out, and double precision counts like single. Bytes are the inputs and outputs of every operator, as if
    each were read from memory and written back once: parameters, activations, gradients and optimizer states. What
    stays in a cache between two operators is counted all the same, so a share of the bandwidth may exceed 1. ``peak``
    is the most bytes of tensors made within that were there at once; what a kernel needs for itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.bytes = self.operators = self.peak = 0
        self.uncounted: set[str] = set()
        self._there: dict[int, int] = {}  # bytes of each storage that was made

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Count, and run, one operator."""
        kwargs = kwargs or {}
        with self:  # in inference mode a linear map arrives whole, not as the product that is counted
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        out = func(*args, **kwargs)
        name, made = func.overloadpacket.__name__, _tensors(out)
        given = _tensors((args, kwargs))
        self._note(given, made)
        if name in ALLOCATIONS or (not func._schema.is_mutable and _is_view(given, made)):
            return out
        self.operators += 1
        self.flops += self._flops(func, name, args, kwargs, out)
        if name in GATHERS:
            self.bytes += 2 * sum(map(_size, made))
        elif name in SCATTERS:
            self.bytes += 2 * _size(given[-1])
        else:
            self.bytes += sum(map(_size, given)) + sum(map(_size, made or _changed(func, args)))
        return out

    def _note(self, given: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        """Count the storages that an operator made, until they are freed."""
        old = {tensor.untyped_storage()._cdata for tensor in given}
        for tensor in made:
            storage = tensor.untyped_storage()
            if storage._cdata not in old and storage._cdata not in self._there:
                self._there[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self._there.pop, storage._cdata, None)
                self.peak = max(self.peak, sum(self._there.values()))

    def _flops(self, func: Any, name: str, args: tuple, kwargs: dict, out: Any) -> int:
        first = next(iter(_tensors(args)), None)
        factor = 4 if first is not None and first.is_complex() else 1
        if name in FACTORISATIONS:
            return factor * round(FACTORISATIONS[name](*(t.shape for t in _tensors(args))))
        if func.overloadpacket in flop_registry:
            return factor * flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
        if "linalg" in name and "norm" not in name:
            self.uncounted.add(name)
        return 0


Shape = Sequence[int]
FACTORISATIONS: dict[str, Callable[..., float]] = {
    "linalg_cholesky_ex": lambda a, *_: prod(a) * a[-1] / 3,
    "linalg_solve_triangular": lambda a, b, *_: prod(b) * a[-1],
    "_linalg_solve_ex": lambda a, b, *_: prod(a) * a[-1] * 2 / 3 + 2 * prod(_right(a, b)) * a[-1],
    "linalg_lu_solve": lambda lu, pivots, b, *_: 2 * prod(b) * lu[-1],
    "linalg_inv_ex": lambda a, *_: 2 * prod(a) * a[-1],
    "_linalg_eigh": lambda a, *_: 9 * prod(a) * a[-1],  # symmetric QR with vectors
}
GATHERS = {"index_select", "index", "gather", "embedding"}  # read no more than they give
SCATTERS = {"index_copy_"}  # write no more than the last tensor that they are given
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


def _right(a: Shape, b: Shape) -> Shape:
    """Shape of a right-hand side of A X = B, where vectors are allowed."""
    return b if len(b) == len(a) else (*b, 1)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _changed(func: Any, args: tuple) -> list[Tensor]:
    """What an operator that returns nothing has written to."""
    places = zip(func._schema.arguments, args, strict=False)
    return _tensors([arg for place, arg in places if place.alias_info is not None and place.alias_info.is_write])


def _is_view(given: Sequence[Tensor], made: Sequence[Tensor]) -> bool:
    places = {tensor.untyped_storage().data_ptr() for tensor in given}
    return bool(made) and all(tensor.untyped_storage().data_ptr() in places for tensor in made)


def _size(tensor: Tensor) -> int:
    """Bytes that a tensor covers; an expanded dimension covers none."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return prod(size for size, stride in sizes if stride or not size) * tensor.element_size()


def axes(asked: Any, only: str | None, known: Sequence[str]) -> list[tuple[str, int]]:
    """Every point of the axes chosen, as the axis and its value.

    :param asked: has the values of each axis, whole numbers from 1 on, with commas
    :param only: axes with commas
    :raises ConfigError: another axis or value
    """
    points = []
    for axis in only.split(",") if only else ():
        if axis not in known:
            raise ConfigError(f"only={only}: {axis} is no axis; they are {either(known)}.")
        values = getattr(asked, axis).split(",")
        if not all(value.isdecimal() and int(value) for value in values):
            raise ConfigError(f"{axis}={getattr(asked, axis)} must be whole numbers from 1 on, with commas.")
        points += [(axis, int(value)) for value in values]
    return points


def cell(links: int | None = None, antennas: int | None = None) -> list[str]:
    """Overrides for a cell of this many links, three of five downlink, and antennas in each direction."""
    given = []
    if links is not None:
        down = max(1, round(0.6 * links))
        given += [f"scenario.downlink_users={down}", f"scenario.uplink_users={max(1, links - down)}"]
    if antennas is not None:
        given += [f"scenario.{side}_antennas={antennas}" for side in ("transmit", "receive")]
    return given


def along(axis: str, value: int) -> list[str]:
    """Overrides for a cell with this many links, antennas in each direction, or both: 0.8 antennas for each link."""
    if axis == "both":
        return cell(links=value, antennas=max(1, round(0.8 * value)))
    return cell(links=value) if axis == "users" else cell(antennas=value)


def report(title: str, columns: Mapping[str, str], rows: Sequence[Sequence[str | float]], out: str | None) -> None:
    """Print a table, and write its unrounded numbers as CSV where ``out`` says so.

    :param title: what was measured, and on what
    :param columns: heading -> format of the numbers, "" for text
    :raises ConfigError: the file cannot be written
    """
    table = Table(title=title)
    for heading, form in columns.items():
        table.add_column(heading, justify="right" if form else "left")
    for row in rows:
        table.add_row(*(format(entry, form) for entry, form in zip(row, columns.values(), strict=True)))
    console = Console()
    (console if console.is_terminal else Console(width=WIDTH)).print(table)
    if out is None:
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["device", *columns])
    writer.writerows([title, *row] for row in rows)
    save(Path(out).expanduser(), text.getvalue())


def save(path: Path, text: str) -> None:
    """Write a file, in a folder that need not be there yet. :raises ConfigError: it cannot be written"""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"out={path} cannot be written: {error.strerror}; choose another file.") from None


def _cpu() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "CPU"


if __name__ == "__main__":
    run(machine_command, Measurement)

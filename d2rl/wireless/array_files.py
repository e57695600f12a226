"""Arrays of a file by name: MATLAB 5 to 7.3, HDF5, netCDF, .npy and .npz. Nothing that a file carries is executed."""

from __future__ import annotations

import codecs
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct, scalar  # what numpy's own pickles of plain arrays call

from d2rl.common.errors import InputError, first_line

ENDINGS = (".mat", ".h5", ".hdf5", ".nc", ".npy", ".npz")
PLAIN = {"_reconstruct": _reconstruct, "scalar": scalar, "ndarray": np.ndarray, "dtype": np.dtype}
COMPLEX = {("real", "imag"), ("real", "imaginary"), ("re", "im"), ("r", "i"), ("i", "q")}  # fields of a compound type
NUMBERED = re.compile(r"(.*_)\d+(_.*)")  # QuaDRiGa writes channel_00001_Coeffs, channel_00002_Coeffs, ...
INSTEAD = {  # how a file begins that stands in the place of the one that was wanted
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself; git lfs pull fetches that.",
    b"<": "a web page, as of a download that wanted a login; download the file itself.",
}
EXTRA = "pip install 'd2rl[files]'"


@dataclass(frozen=True)
class Stored:
    """An array that may still lie in its file.

    :param shape: in the order of the program that wrote it
    :param is_complex: whether its numbers are
    :param part: (axis, slice) -> that part of it as a NumPy array
    """

    shape: tuple[int, ...]
    is_complex: bool
    part: Callable[[int, slice], np.ndarray]

    @classmethod
    def of(cls, array: np.ndarray) -> Stored:
        """One that is in memory, or mapped into it."""
        is_complex = np.iscomplexobj(array) or _parts(array.dtype) is not None
        return cls(array.shape, is_complex, lambda axis, where: _joined(array[(slice(None),) * axis + (where,)]))

    def whole(self) -> np.ndarray:
        """All of it."""
        return self.part(0, slice(None))


@contextmanager
def open_arrays(path: Path, memory: float = float("inf")) -> Iterator[dict[str, Stored]]:
    """The numeric arrays of a file, by name; those within others are PART.NAME, equal ones of a list are stacked.

    :param memory: bytes; what cannot be read in parts must not be larger
    :raises InputError: not such a file, damaged, no numbers in it, larger than memory, a reader is not installed
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the path of a file of channels.")
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of a file of channels.")
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path} is no file of arrays; its name must end in one of {', '.join(ENDINGS)}.")
    try:
        refuse_stand_in(path)
        with _opened(path, memory) as content:
            arrays = _named(content)
            if not arrays:
                raise InputError(f"{path} holds no arrays of numbers.")
            yield arrays
    except (InputError, GeneratorExit):
        raise
    except ImportError as error:
        raise InputError(f"{path} needs {error.name}, which is not installed: {EXTRA}.") from None
    except MemoryError:
        raise InputError(
            f"{path} is larger than the memory; write it as HDF5 or .npy, which is read in parts."
        ) from None
    except Exception as error:  # of a file from anywhere, any reader may raise anything
        raise InputError(
            f"{path} cannot be read: it is damaged or not what its name says ({first_line(error)})."
        ) from None


def refuse_stand_in(path: Path) -> None:
    """Whether the file is one of those that downloads leave in the place of another. :raises InputError: it is"""
    with open(path, "rb") as file:
        begin = file.read(200).lstrip()
    for text, meaning in INSTEAD.items():
        if begin.startswith(text):
            raise InputError(f"{path} is {meaning}")


@contextmanager
def _opened(path: Path, memory: float) -> Iterator[Any]:
    """Content as dictionaries, lists and arrays."""
    kind = path.suffix.lower()
    if kind == ".npy":
        yield _read_npy(path)
    elif kind == ".npz":
        with zipfile.ZipFile(path) as archive:
            _check_size(path, sum(member.file_size for member in archive.infolist()), memory)
        yield _read_npz(path)
    else:
        import h5py

        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                yield {name: _from_hdf5(file, part) for name, part in file.items() if not name.startswith("#")}
        elif kind == ".mat":
            from scipy.io import loadmat

            _check_size(path, path.stat().st_size, memory)
            yield loadmat(path)
        elif kind == ".nc":  # of netCDF's version 3; version 4 is HDF5
            from scipy.io import netcdf_file

            _check_size(path, path.stat().st_size, memory)
            with netcdf_file(path, mmap=False) as file:
                yield {name: variable.data for name, variable in file.variables.items()}
        else:
            raise InputError(f"{path} is no HDF5 file, whatever its name says; give another one.")


def _check_size(path: Path, size: float, memory: float) -> None:
    if size > memory:
        raise InputError(
            f"{path} holds {size / 2**30:.1f} GiB, which must be read at once, and there are {memory / 2**30:.1f} GiB "
            "of memory; write it as HDF5 (in MATLAB: save with -v7.3) or .npy, which is read in parts."
        )


def _read_npy(path: Path) -> Any:
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        if not read(file)[2].hasobject:
            return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}
        return {path.stem: _Plain(file).load()}


def _read_npz(path: Path) -> dict[str, Any]:
    content = {}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            try:
                content[name] = file[name]
            except ValueError:  # objects
                with file.zip.open(f"{name}.npy") as member:
                    np.lib.format.read_magic(member)
                    np.lib.format.read_array_header_1_0(member)
                    content[name] = _Plain(member).load()
    return content


class _Plain(pickle.Unpickler):
    """Reads dictionaries and lists of arrays; anything else, and so all code, is refused by its name."""

    def find_class(self, module: str, name: str) -> Any:
        """What numpy's pickles of arrays need, and nothing more."""
        if module.partition(".")[0] == "numpy" and name in PLAIN:
            return PLAIN[name]
        if (module, name) == ("_codecs", "encode"):
            return codecs.encode
        raise InputError(
            f"it holds objects ({module}.{name}) instead of numbers, which are never loaded; write the arrays alone, "
            "as by numpy.savez."
        )


def _from_hdf5(file: Any, part: Any) -> Any:
    """Groups as dictionaries, MATLAB's cells as lists, its arrays in MATLAB's order of axes, which HDF5 reverses."""
    if part is None:  # a link that leads nowhere
        return None
    if hasattr(part, "items"):
        return {name: _from_hdf5(file, inner) for name, inner in part.items()}
    kind = part.attrs.get("MATLAB_class", b"")
    if part.dtype.hasobject and "ref" in (part.dtype.metadata or {}):
        return [_from_hdf5(file, file[reference]) for reference in np.ravel(part[()].T)]
    pair = _parts(part.dtype)
    if kind == b"char" or "MATLAB_empty" in part.attrs or not (pair or part.dtype.kind in "fiuc"):
        return None
    dims, reverse = part.ndim, bool(kind)

    def read(axis: int, where: slice) -> np.ndarray:
        place = dims - 1 - axis if reverse else axis
        found = part[(slice(None),) * place + (where,)] if dims else part[()]
        found = _joined(found)
        return found.T if reverse else found

    return Stored(part.shape[::-1] if reverse else part.shape, bool(pair) or part.dtype.kind == "c", read)


def _parts(dtype: np.dtype) -> tuple[str, str] | None:
    """The fields of a compound type that are real and imaginary part, as programs name them; None: it has no such."""
    names = dtype.names or ()
    if len(names) != 2 or any(dtype[name].kind not in "fiu" or dtype[name].shape for name in names):
        return None
    first, second = names
    if (first.lower(), second.lower()) in COMPLEX:
        return first, second
    return (second, first) if (second.lower(), first.lower()) in COMPLEX else None


def _joined(array: np.ndarray) -> np.ndarray:
    """Complex numbers where the array has their two parts as fields."""
    parts = _parts(array.dtype)
    return array[parts[0]] + 1j * array[parts[1]] if parts else array


def _named(content: Any, name: str = "") -> dict[str, Stored]:
    """Every numeric array of nested dictionaries and lists."""
    content = _plain(content)
    if isinstance(content, Stored):
        return {name: content} if content.shape else {}
    if isinstance(content, np.ndarray):
        numbers = content.dtype.kind in "fiuc" or _parts(content.dtype)
        return {name: Stored.of(content)} if content.ndim and numbers else {}
    if isinstance(content, list):
        return _named(_merged(content), name)
    if not isinstance(content, dict):
        return {}
    found: dict[str, Stored] = {}
    for key, part in _gathered(content).items():
        if not str(key).startswith("__"):
            found |= _named(part, f"{name}.{key}" if name else str(key))
    return found


def _plain(content: Any) -> Any:
    """MATLAB's structs as dictionaries, its cells as lists; what stands alone in a list as itself."""
    if isinstance(content, np.ndarray) and content.dtype.names and not _parts(content.dtype):
        content = [{key: part[key] for key in content.dtype.names} for part in content.ravel()]
    elif isinstance(content, np.ndarray) and content.dtype.hasobject:
        content = list(content.ravel())
    return _plain(content[0]) if isinstance(content, list) and len(content) == 1 else content


def _gathered(content: dict[Any, Any]) -> dict[Any, Any]:
    """The same with what differs by a number in its name as one list."""
    groups: dict[Any, list[Any]] = {}
    for key in sorted(content, key=str):
        match = NUMBERED.fullmatch(str(key))
        groups.setdefault(f"{match[1]}*{match[2]}" if match else key, []).append(content[key])
    return {key: parts if "*" in str(key) else parts[0] for key, parts in groups.items()}


def _whole(part: Any) -> Any:
    """A stored array in memory, anything else as it is."""
    if isinstance(part, Stored):
        return part.whole()
    return _joined(part) if isinstance(part, np.ndarray) else part


def _merged(parts: list[Any]) -> Any:
    """One dictionary of lists for a list of dictionaries, one array for arrays that fit; else numbered parts."""
    parts = [_plain(part) for part in parts]
    if parts and all(isinstance(part, dict) and part.keys() == parts[0].keys() for part in parts):
        return {key: [part[key] for part in parts] for key in parts[0]}
    arrays = [_whole(part) for part in parts]
    if arrays and all(isinstance(part, np.ndarray) and part.dtype.kind in "fiuc" and part.ndim for part in arrays):
        dims = max(part.ndim for part in arrays)
        arrays = [part.reshape(part.shape + (1,) * (dims - part.ndim)) for part in arrays]
        shape = tuple(np.max([part.shape for part in arrays], axis=0))
        if sum(len(set(sizes)) > 1 for sizes in zip(*(part.shape for part in arrays), strict=True)) <= 1:
            # lists of paths differ in length; a path of 0 changes nothing
            pads = [[(0, size - own) for size, own in zip(shape, part.shape, strict=True)] for part in arrays]
            return np.stack([np.pad(part, pad) for part, pad in zip(arrays, pads, strict=True)])
    return {str(number): part for number, part in enumerate(parts)}

"""Arrays of strangers: each header of an .npz file is checked before its array is read, and nothing is unpickled.

An .npz is a zip of .npy files, each a short header (type, shape, order) and the bytes. numpy alone reads as much as the
header says; a few kilobytes can stand for many gigabytes.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from spherectl.errors import FileError
from spherectl.files import open_regular
from spherectl.shown import quoted, shortened

Array = npt.NDArray[Any]


class Expected(NamedTuple):
    """The kinds and shapes that an array may have.

    Attributes:
        kinds: of numpy's types: f floating point, i and u whole numbers, U text.
        shape: the largest extent of each axis.
    """

    kinds: str
    shape: tuple[int, ...]


class _DamagedError(Exception):
    """A reason, as it follows a colon."""


def read_npz(path: Path, expected: Mapping[str, Expected], hint: str = "") -> dict[str, Array]:
    """The expected arrays that an .npz file has; nothing else in it is read.

    Args:
        path: the file.
        expected: by name; an array of another kind or a larger shape is refused unread.
        hint: what to do where the file is damaged.

    Raises:
        FileError: it is missing, no regular file, damaged, no .npz file, or holds other arrays.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
            return {name: _read(archive, name, one) for name, one in expected.items() if f"{name}.npy" in names}
    except _DamagedError as error:
        raise FileError(f"{path} is not a whole .npz file of such numbers: {error}.", hint) from None
    except OSError as error:
        if error.errno is not None:
            raise FileError(f"Cannot read {path}: {error.strerror}.") from None
        raise FileError(f"{path} is not a whole .npz file of numbers.", hint) from None
    # What zipfile, its decompressors and numpy raise over a damaged file is not a closed list.
    except Exception:  # noqa: BLE001
        raise FileError(f"{path} is not a whole .npz file of numbers.", hint) from None


def _read(archive: zipfile.ZipFile, name: str, expected: Expected) -> Array:
    with archive.open(f"{name}.npy") as member:
        shape, fortran, dtype = _header(member)
        if dtype.kind not in expected.kinds or dtype.hasobject:
            raise _DamagedError(f"{name} is an array of {shortened(str(dtype))}")
        if len(shape) != len(expected.shape) or any(a > b for a, b in zip(shape, expected.shape, strict=True)):
            raise _DamagedError(f"{name} has the shape {quoted(shape)}, at most {expected.shape} is read")
        size = math.prod(shape) * dtype.itemsize
        content = member.read(size)
        if len(content) != size or member.read(1):  # the last one also compares the checksum
            raise _DamagedError(f"{name} has not as many bytes as its header says")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of files that Python 2 wrote, and of types that are no longer spelt so
        version = npy.read_magic(member)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            raise _DamagedError(f"a header of version {version}")
        shape, fortran, dtype = read(member)
    if not all(type(extent) is int and extent >= 0 for extent in shape):
        raise _DamagedError(f"the shape {quoted(shape)}")
    return shape, fortran, dtype

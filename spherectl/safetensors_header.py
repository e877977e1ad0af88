"""The header of a safetensors file, read without torch and checked before anything is made of it.

A file begins with the length of its header (8 bytes, little-endian) and the header itself, which is JSON: the type,
shape and bytes of each tensor by name, and a table of texts under `__metadata__`. The tensors follow without gaps.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

from spherectl.documents import parse_table
from spherectl.errors import FileError
from spherectl.files import open_regular
from spherectl.shown import quoted

# Our headers have 1 to 200 kB. No model has a larger one; lists of files may ask for more (`max_bytes`).
MAX_HEADER = 8 << 20
MAX_DIMENSIONS = 8  # of a tensor; ours have at most 4

# Bits of a number, by safetensors' names of types.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class TensorInfo(NamedTuple):
    """Where a tensor is.

    Attributes:
        dtype: safetensors' name of its type, a key of `BITS`.
        shape: of it.
        start, stop: first byte in the file, and the one after its last.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Contents:
    """What is in a safetensors file.

    Attributes:
        metadata: its own texts, by key.
        tensors: by name, in the order of their bytes; together they are the rest of the file.
    """

    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]


def safetensors_header(path: Path, *, max_bytes: int = MAX_HEADER) -> Contents:
    """What is in a safetensors file; every tensor is held against the file's bytes, none is read.

    Args:
        path: of it.
        max_bytes: that its header may have.

    Raises:
        FileError: missing, not a regular file, or not a whole safetensors file.
    """
    with opened(path) as file:
        return contents(file, path, max_bytes=max_bytes)


def opened(path: Path) -> BufferedReader:
    """A file opened for reading, at its beginning.

    Raises:
        FileError: missing, or not a regular file.
    """
    try:
        return open_regular(path)
    except FileNotFoundError:
        raise FileError(f"There is no file {path}.") from None
    except OSError as error:
        raise FileError(f"Cannot read {path}: {error.strerror}.") from None


def contents(file: BufferedReader, path: Path, *, max_bytes: int = MAX_HEADER) -> Contents:
    """`safetensors_header` of an open file, which is left behind its header; `path` is for errors."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 + length:  # also what is no safetensors file at all
        raise _damaged(path, "it is cut short, or of another kind")
    if length > max_bytes:
        raise FileError(f"{path}: its header has {length:,} bytes, at most {max_bytes:,} are read.")
    table = parse_table(file.read(length), f"The header of {path}")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _damaged(path, "__metadata__ in its header is not a table of texts")
    infos = {name: _tensor_info(path, name, entry, 8 + length) for name, entry in table.items()}
    tensors = dict(sorted(infos.items(), key=lambda item: item[1].start))
    end = 8 + length
    for name, info in tensors.items():  # one behind the other: so all together need the memory of the file, no more
        if info.start != end:
            raise _damaged(path, f"the bytes of {quoted(name)} do not follow those before")
        end = info.stop
    if end != size:
        raise _damaged(path, f"its tensors have {end - 8 - length:,} bytes, the file {size - 8 - length:,}")
    return Contents(metadata, tensors)


def _tensor_info(path: Path, name: str, entry: Any, base: int) -> TensorInfo:
    """One entry of a header, whose offsets count from `base`."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, stop]} if (
            dtype in BITS
            and len(shape) <= MAX_DIMENSIONS
            and all(type(number) is int and 0 <= number < 2**63 for number in (*shape, start, stop))
            and (stop - start) * 8 == math.prod(shape) * BITS[dtype]
        ):
            return TensorInfo(dtype, tuple(shape), base + start, base + stop)
    raise _damaged(path, f"type, shape and bytes of {quoted(name)} do not fit together")


def _damaged(path: Path, reason: str) -> FileError:
    return FileError(f"{path} is not a whole safetensors file: {reason}.", "Fetch it or copy it again.")

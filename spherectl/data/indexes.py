"""Indexes of large sets in the cache: an unchanged folder need not be listed again.

An index is a file of plain arrays (.npz, nothing pickled) and some JSON. Losing one costs time alone, so a damaged one
is as good as none, and a cache that cannot be written is no error. Whoever loads an index says whether it still holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from spherectl.documents import parse_json
from spherectl.errors import FileError
from spherectl.files import open_regular, replacing

T = TypeVar("T")

# Raised when what is kept changes, so that older files are made anew.
FORMAT = 3

# A file system's clock moves in steps, and what changes twice within one has the same time: an index of something that
# was changed so shortly before it was read may miss the second change, and is not kept.
SETTLED_NS = 2_000_000_000


class Index(NamedTuple):
    """What is kept: facts that JSON can hold, and arrays by name."""

    facts: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]


def load_index(key: str, arrays: Mapping[str, type[np.generic]], made: Callable[[Index], T | None]) -> T | None:
    """What `made` makes of the index kept under `key`; None where there is none, or a damaged or older one.

    Args:
        key: as `save_index` was given it.
        arrays: names and element types of its arrays, all of one dimension.
        made: called with an index whose facts may still be any; what it raises means that the index is damaged.
    """
    # What numpy, zipfile, json and whoever takes the facts apart raise over a damaged file is not a closed list.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy's, over a header of another age
            index = _read(key, arrays)
        return made(index)
    except Exception:  # noqa: BLE001
        return None


def save_index(key: str, index: Index) -> None:
    """Keep an index under `key`, if the cache can be written."""
    facts = json.dumps({**index.facts, "format": FORMAT, "key": key}).encode()
    with contextlib.suppress(FileError), replacing(_path(key)) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{**index.arrays, "facts": np.frombuffer(facts, np.uint8)})


def state_of(path: Path) -> list[int]:
    """What tells that a file or folder is as it was: size, times of change in ns, inode.

    The second time is the system's own: archives, backups and containers restore only the first.

    Raises:
        OSError: there is none.
    """
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def is_settled(state: list[int], now_ns: int) -> bool:
    """Whether what is in this state can no longer change unnoticed at that time, in ns."""
    return max(state[1:3]) < now_ns - SETTLED_NS


def _read(key: str, arrays: Mapping[str, type[np.generic]]) -> Index:
    wanted = {**arrays, "facts": np.uint8}
    with open_regular(_path(key)) as file:
        with zipfile.ZipFile(file) as archive:
            promised = [_promised(archive, member) for member in archive.infolist()]
        if sum(promised) > os.fstat(file.fileno()).st_size:
            raise ValueError("more than the file holds")
        file.seek(0)
        with np.load(file, allow_pickle=False) as stored:
            if set(stored.files) != set(wanted):
                raise ValueError("other arrays")
            found = {name: stored[name] for name in wanted}
    if any(found[name].ndim != 1 or found[name].dtype.type is not kind for name, kind in wanted.items()):
        raise ValueError("arrays of other types")
    facts = parse_json(found.pop("facts").tobytes())
    if (facts.pop("format"), facts.pop("key")) != (FORMAT, key):
        raise ValueError("another index")
    return Index(facts, found)


def _promised(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Bytes of an array by its header."""
    with archive.open(member) as file:
        np.lib.format.read_magic(file)
        shape, _, kind = np.lib.format.read_array_header_1_0(file)
    return math.prod(shape) * kind.itemsize


def _path(key: str) -> Path:
    from spherectl.settings import load_settings

    return load_settings().cache / "indexes" / f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()}.npz"

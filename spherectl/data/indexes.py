"""Indexes of large sets, kept in the cache: what lies in a folder need not be listed again while it is unchanged.

An index is a file of plain arrays (.npz, nothing pickled) and some JSON. Losing one costs time alone, so a damaged one
is as good as none, and a cache that cannot be written is no error. Whoever loads an index says whether it still holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spherectl.errors import FileError
from spherectl.files import replacing

# Raised when what is kept changes, so that older files are made anew.
FORMAT = 1

# A file system's clock moves in steps, and what changes twice within one has the same time: an index of something that
# was changed so shortly before it was read may miss the second change, and is not kept.
SETTLED_NS = 2_000_000_000


class Index(NamedTuple):
    """What is kept: facts that JSON can hold, and arrays by name."""

    facts: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]


def load_index(key: str) -> Index | None:
    """The index kept under `key`; None where there is none, or it is damaged or of another version."""
    # What numpy, zipfile and json raise over a damaged file is not a closed list.
    try:
        with _path(key).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        facts = json.loads(arrays.pop("facts").tobytes())
        return Index(facts, arrays) if (facts.pop("format"), facts.pop("key")) == (FORMAT, key) else None
    except Exception:  # noqa: BLE001
        return None


def save_index(key: str, index: Index) -> None:
    """Keep an index under `key`, if the cache can be written."""
    facts = json.dumps({**index.facts, "format": FORMAT, "key": key}).encode()
    with contextlib.suppress(FileError), replacing(_path(key)) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{**index.arrays, "facts": np.frombuffer(facts, np.uint8)})


def is_settled(changed_ns: int, now_ns: int) -> bool:
    """Whether something last changed at the one time, in ns, can no longer change unnoticed at the other."""
    return changed_ns < now_ns - SETTLED_NS


def _path(key: str) -> Path:
    from spherectl.settings import load_settings

    return load_settings().cache / "indexes" / f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()}.npz"

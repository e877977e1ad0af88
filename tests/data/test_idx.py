"""idx files that are damaged or promise gigabytes, written byte by byte here."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from spherectl.data.idx import read_idx
from spherectl.errors import FileError
from tests.data.bounded import bounded

pytestmark = pytest.mark.fast


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


WHOLE = idx(np.arange(12, dtype=np.uint8).reshape(3, 4))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "expected it to begin with 00 00 08, got 00 00 0d"),
        (WHOLE[:9], "ends within its header"),
        (WHOLE[:-1], "header says 3 x 4 = 12 bytes, 11 are there"),
        (gzip.compress(WHOLE + bytes(1 << 27), 1), "= 12 bytes, more are there"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 1 << 31, 28, 28), "2147483648 x 28 x 28 bytes; expected at most 4"),
        (gzip.compress(WHOLE)[:-6], "Cannot read"),
    ],
    ids=["floats", "header", "short", "bomb", "huge", "short-gzip"],
)
def test_damaged_idx_files_are_named_and_fill_no_memory(tmp_path, content, reason):
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with bounded(64), pytest.raises(FileError, match=reason) as caught:
        read_idx(path)
    assert str(path) in caught.value.message

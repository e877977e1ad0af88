"""idx files written byte by byte here: read back, and those that are damaged or promise gigabytes."""

from __future__ import annotations

import gzip
import struct
import tracemalloc

import numpy as np
import pytest

from spherectl.data.idx import read_idx
from spherectl.errors import FileError

pytestmark = pytest.mark.fast


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("shape", [(5,), (2, 28, 28), (0, 28, 28)])
@pytest.mark.parametrize("packed", [False, True])
def test_idx_round_trip(tmp_path, shape, packed):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    read = read_idx(path)
    assert read.shape == shape
    assert (read == array).all()
    assert read.flags.writeable


WHOLE = idx(np.arange(12, dtype=np.uint8).reshape(3, 4))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "expected it to begin with 00 00 08, got 00 00 0d"),
        (WHOLE[:9], "ends within its header"),
        (WHOLE[:-1], "header says 3 x 4 = 12 bytes, 11 are there"),
        (WHOLE + b"x", "= 12 bytes, more are there"),
        (gzip.compress(WHOLE)[:-6], "Cannot read"),
    ],
    ids=["floats", "header", "short", "long", "short-gzip"],
)
def test_damaged_idx_files_are_named(tmp_path, content, reason):
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with pytest.raises(FileError, match=reason) as caught:
        read_idx(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\0\0\x08\x03" + struct.pack(">3I", 1 << 31, 28, 28), "2147483648 x 28 x 28 bytes; expected at most 4"),
        (WHOLE + bytes(1 << 27), "= 12 bytes, more are there"),
    ],
    ids=["huge", "bomb"],
)
def test_idx_files_that_promise_or_hold_gigabytes(tmp_path, content, reason):
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content, 1))
    del content
    tracemalloc.start()
    try:
        with pytest.raises(FileError, match=reason):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()

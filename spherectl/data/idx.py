"""idx files, in which MNIST and its relatives are published: a header with a shape, then unsigned bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spherectl.errors import FileError, SpherectlError
from spherectl.files import open_regular
from spherectl.shown import listed

# Of a file: Fashion-MNIST's have 47 MB, those of EMNIST, the largest such set, 547 MB.
MAX_BYTES, MAX_DIMENSIONS = 600 << 20, 4

_UNSIGNED_BYTE = 0x08
_PART_BYTES = 1 << 20


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An idx file of unsigned bytes, plain or gzip, as an array of the shape in its header.

    Raises:
        FileError: missing, damaged, of another element type, or not as long as its header says.
    """
    try:
        with open_regular(path) as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            with gzip.GzipFile(fileobj=file) if packed else file as content:
                return _read_idx(content, path)
    except SpherectlError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FileError(f"Cannot read {path}: {reason}.", "Remove the file and fetch it again.") from None


def _read_idx(content: BufferedReader | gzip.GzipFile, path: Path) -> npt.NDArray[np.uint8]:
    beginning = content.read(4)
    if len(beginning) < 4 or beginning[:3] != bytes((0, 0, _UNSIGNED_BYTE)):
        raise FileError(
            f"{path} is not an idx file of bytes: expected it to begin with 00 00 08, got {beginning[:3].hex(' ')}."
        )
    sizes = content.read(4 * beginning[3])
    if len(sizes) < 4 * beginning[3]:
        raise FileError(f"{path} is truncated: it ends within its header.", "Remove the file and fetch it again.")
    shape = struct.unpack(f">{beginning[3]}I", sizes)
    expected = math.prod(shape)
    if len(shape) > MAX_DIMENSIONS or expected > MAX_BYTES:
        raise FileError(
            f"{path}: its header says {listed(shape, MAX_DIMENSIONS, ' x ')} bytes; expected at most "
            f"{MAX_DIMENSIONS} dimensions and {MAX_BYTES:,} bytes."
        )
    pixels = np.empty(expected, np.uint8)  # its pages are taken as they are filled
    got = 0
    while got < expected and (part := content.read(min(expected - got, _PART_BYTES))):
        pixels[got : got + len(part)] = np.frombuffer(part, np.uint8)
        got += len(part)
    if got < expected or content.read(1):
        raise FileError(
            f"{path} is damaged: its header says {' x '.join(map(str, shape))} = {expected} bytes, "
            f"{got if got < expected else 'more'} are there.",
            "Remove the file and fetch it again.",
        )
    return pixels.reshape(shape)

"""Readers for the published file formats of the small sets: idx (Fashion-MNIST), CIFAR-10 binary, Flowers-102.

Nothing here unpickles. Each reader looks for its files in the folder it is given and in the sub-folder that the
set's own archive makes; `find_*` says which of the two, or None.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spherectl.classes import known_class_names
from spherectl.data.names import Split
from spherectl.errors import FileError, SpherectlError
from spherectl.files import is_folder, is_there, open_regular, read_bytes
from spherectl.shown import listed

Bytes = npt.NDArray[np.uint8]

FASHION_MNIST_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
CIFAR10_CLASSES = known_class_names("cifar10")

_IDX_PREFIX = {"train": "train", "test": "t10k"}
_IDX_UNSIGNED_BYTE = 0x08
_CIFAR10_FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
_CIFAR10_ROW = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes
_FLOWERS102_IMAGES = 8189

# Of an idx file: Fashion-MNIST's have 47 MB, those of EMNIST, the largest such set, 547 MB.
MAX_IDX_BYTES, MAX_IDX_DIMENSIONS = 600 << 20, 4
# Of a CIFAR-10 file; the published ones have 10,000.
MAX_CIFAR10_ROWS = 20_000
# Of a table of Flowers-102, packed or not; the published ones have 502 and 14,989 bytes, 65,512 if they are unpacked.
MAX_MAT_BYTES = 1 << 20

_PART_BYTES = 1 << 20
_MAT_BEGINNING = 128
_MAT_PACKED = 15
_MAT_NUMBERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "single", "double")


def read_idx(path: Path) -> Bytes:
    """An idx file of unsigned bytes, plain or gzip, as an array of the shape in its header.

    Raises:
        FileError: missing, damaged, of another element type, or not as long as its header says.
    """
    try:
        with open_regular(path) as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            with gzip.GzipFile(fileobj=file) if packed else file as content:
                return _read_idx(content, path)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FileError(f"Cannot read {path}: {reason}.", "Remove the file and fetch it again.") from None


def _read_idx(content: BufferedReader | gzip.GzipFile, path: Path) -> Bytes:
    beginning = content.read(4)
    if len(beginning) < 4 or beginning[:3] != bytes((0, 0, _IDX_UNSIGNED_BYTE)):
        raise FileError(
            f"{path} is not an idx file of bytes: expected it to begin with 00 00 08, got {beginning[:3].hex(' ')}."
        )
    sizes = content.read(4 * beginning[3])
    if len(sizes) < 4 * beginning[3]:
        raise FileError(f"{path} is truncated: it ends within its header.", "Remove the file and fetch it again.")
    shape = struct.unpack(f">{beginning[3]}I", sizes)
    expected = math.prod(shape)
    if len(shape) > MAX_IDX_DIMENSIONS or expected > MAX_IDX_BYTES:
        raise FileError(
            f"{path}: its header says {listed(shape, MAX_IDX_DIMENSIONS, ' x ')} bytes; expected at most "
            f"{MAX_IDX_DIMENSIONS} dimensions and {MAX_IDX_BYTES:,} bytes."
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


def find_fashion_mnist(root: Path) -> Path | None:
    """The folder at or below `root` with Fashion-MNIST's idx files (as published, or as torchvision lays them)."""
    for folder in (root, root / "FashionMNIST" / "raw"):
        if _idx_file(folder, "train-images-idx3-ubyte") and _idx_file(folder, "train-labels-idx1-ubyte"):
            return folder
    return None


def read_fashion_mnist(folder: Path, split: Split) -> tuple[Tensor, Tensor]:
    """Images uint8 (n, 28, 28) and labels int64 (n,).

    Raises:
        FileError: a file is missing or damaged, or the two do not belong together.
    """
    images_path, labels_path = (
        _idx_file(folder, name) or folder / f"{name}.gz"
        for name in (f"{_IDX_PREFIX[split]}-images-idx3-ubyte", f"{_IDX_PREFIX[split]}-labels-idx1-ubyte")
    )
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.shape[1:] != (28, 28) or not len(images):
        raise FileError(f"{images_path}: expected images of 28 x 28 bytes, got an array of shape {images.shape}.")
    if labels.shape != (len(images),):
        raise FileError(f"{labels_path}: expected {len(images)} labels, one an image, got shape {labels.shape}.")
    _check_labels(labels, len(FASHION_MNIST_CLASSES), labels_path)
    return torch.from_numpy(images), torch.from_numpy(labels).long()


def find_cifar10(root: Path) -> Path | None:
    """The folder at or below `root` with the files of CIFAR-10's binary version."""
    for folder in (root, root / "cifar-10-batches-bin"):
        if any(is_there(folder / name) for name in ("test_batch.bin", "data_batch_1.bin")):
            return folder
    return None


def read_cifar10(folder: Path, split: Split) -> tuple[Tensor, Tensor]:
    """Images uint8 (n, 3, 32, 32) and labels int64 (n,) from the binary version (a row: label, red, green, blue).

    Raises:
        FileError: a file is missing, or is no whole number of rows, or holds a label above 9.
    """
    parts: list[Bytes] = []
    for path in (folder / name for name in _CIFAR10_FILES[split]):
        try:
            content = np.frombuffer(read_bytes(path, MAX_CIFAR10_ROWS * _CIFAR10_ROW), np.uint8)
        except OSError as error:
            raise FileError(
                f"Cannot read {path}: {error.strerror or error}.", "Fetch CIFAR-10's binary version."
            ) from None
        if len(content) == 0 or len(content) % _CIFAR10_ROW:
            raise FileError(
                f"{path} is damaged: expected rows of {_CIFAR10_ROW} bytes, got {len(content)} bytes in all.",
                "Remove the folder and fetch the set again.",
            )
        rows = content.reshape(-1, _CIFAR10_ROW)
        _check_labels(rows[:, 0], len(CIFAR10_CLASSES), path)
        parts.append(rows)
    table = torch.from_numpy(np.concatenate(parts))  # (n, 3073)
    return table[:, 1:].reshape(-1, 3, 32, 32).contiguous(), table[:, 0].long()


def find_flowers102(root: Path) -> Path | None:
    """The folder at or below `root` with Flowers-102's images (jpg/) and labels (imagelabels.mat)."""
    for folder in (root, root / "flowers-102"):
        if is_folder(folder / "jpg") and is_there(folder / "imagelabels.mat"):
            return folder
    return None


def read_flowers102(folder: Path, split: Split) -> tuple[list[str], Tensor]:
    """File names below `folder` and labels int64 (n,).

    "train" is every image, as the paper trains on and measures against all of them (section 7); "test" is the set's
    own test split.

    Raises:
        SpherectlError: scipy, which reads the label files, is not installed.
        FileError: a label file is missing or damaged.
    """
    labels = _read_mat(folder / "imagelabels.mat", "labels", 102)
    if len(labels) != _FLOWERS102_IMAGES:
        raise FileError(f"{folder / 'imagelabels.mat'}: expected {_FLOWERS102_IMAGES} labels, got {len(labels)}.")
    numbers = np.arange(1, len(labels) + 1)
    if split == "test":
        numbers = np.unique(_read_mat(folder / "setid.mat", "tstid", _FLOWERS102_IMAGES))
    return [f"jpg/image_{i:05d}.jpg" for i in numbers], torch.from_numpy(labels[numbers - 1] - 1)


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if is_there(path)), None)


def _check_labels(labels: Bytes, classes: int, path: Path) -> None:
    if labels.size and labels.max() >= classes:
        raise FileError(f"{path}: expected labels below {classes}, got {labels.max()}.")


def _read_mat(path: Path, key: str, most: int) -> npt.NDArray[np.int64]:
    """A table of numbers from 1 to `most` in one of MATLAB's files, as a row."""
    try:
        from scipy.io import loadmat, whosmat
    except ImportError:
        raise SpherectlError(
            f"The labels of Flowers-102 ({path}) need scipy to be read.", "pip install scipy"
        ) from None
    try:
        file = io.BytesIO(_checked_mat(read_bytes(path, MAX_MAT_BYTES)))
        # Of other kinds scipy makes as many empty places as the header says, however few are filled.
        kinds = {name: kind for name, shape, kind in whosmat(file) if math.prod(shape) <= MAX_MAT_BYTES}
        file.seek(0)
        wanted = [key] if kinds.get(key) in _MAT_NUMBERS else ["none of it"]
        found = np.asarray(loadmat(file, variable_names=wanted)[key]).ravel()
    # scipy raises what its parser trips over; each means that the file is not what was published.
    except Exception as error:  # noqa: BLE001
        reason = getattr(error, "strerror", None) or f"no readable table {key!r}"
        raise FileError(f"Cannot read {path}: {reason}.", "Remove the file and fetch it again.") from None
    if found.dtype.kind not in "iuf" or not len(found) or not ((found >= 1) & (found <= most)).all():
        raise FileError(f"{path}: expected {key}, numbers from 1 to {most}.", "Remove the file and fetch it again.")
    return found.astype(np.int64)


def _checked_mat(content: bytes) -> bytes:
    """A file of MATLAB 5 to 7, as published, if none of its tables unpacks to more than `MAX_MAT_BYTES`."""
    if content[_MAT_BEGINNING - 4 : _MAT_BEGINNING] != b"\0\1IM":
        raise ValueError("another kind of file")
    at = _MAT_BEGINNING
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<II", content, at)
        if kind == _MAT_PACKED:
            unpacking = zlib.decompressobj()
            unpacking.decompress(content[at + 8 : at + 8 + size], MAX_MAT_BYTES)
            if unpacking.unconsumed_tail:
                raise ValueError("a table larger than any of the set")
        at += 8 + size
    return content

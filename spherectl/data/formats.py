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
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spherectl.classes import known_class_names
from spherectl.errors import FileError, SpherectlError

Split = Literal["train", "test"]
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


def read_idx(path: Path) -> Bytes:
    """An idx file of unsigned bytes, plain or gzip, as an array of the shape in its header.

    Raises:
        FileError: missing, damaged, of another element type, or not as long as its header says.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FileError(f"Cannot read {path}: {reason}.", "Remove the file and fetch it again.") from None
    if len(content) < 4 or content[:3] != bytes((0, 0, _IDX_UNSIGNED_BYTE)):
        raise FileError(
            f"{path} is not an idx file of bytes: expected it to begin with 00 00 08, got {content[:3].hex(' ')}."
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise FileError(f"{path} is truncated: it ends within its header.", "Remove the file and fetch it again.")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    expected, got = math.prod(shape), len(content) - start
    if expected != got:
        raise FileError(
            f"{path} is damaged: its header says {' x '.join(map(str, shape))} = {expected} bytes, {got} are there.",
            "Remove the file and fetch it again.",
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def find_fashion_mnist(root: Path) -> Path | None:
    """The folder at or below `root` with Fashion-MNIST's idx files (as published, or as torchvision lays them)."""
    for folder in (root, root / "FashionMNIST" / "raw"):
        if _idx_file(folder, "train-images-idx3-ubyte") and _idx_file(folder, "train-labels-idx1-ubyte"):
            return folder
    return None


def read_fashion_mnist(folder: Path, split: Split) -> tuple[Tensor, Tensor]:
    """Pictures uint8 (n, 28, 28) and labels int64 (n,).

    Raises:
        FileError: a file is missing or damaged, or the two do not belong together.
    """
    pictures_path, labels_path = (
        _idx_file(folder, name) or folder / f"{name}.gz"
        for name in (f"{_IDX_PREFIX[split]}-images-idx3-ubyte", f"{_IDX_PREFIX[split]}-labels-idx1-ubyte")
    )
    pictures, labels = read_idx(pictures_path), read_idx(labels_path)
    if pictures.ndim != 3 or pictures.shape[1:] != (28, 28):
        raise FileError(f"{pictures_path}: expected pictures of 28 x 28 bytes, got an array of shape {pictures.shape}.")
    if labels.shape != (len(pictures),):
        raise FileError(f"{labels_path}: expected {len(pictures)} labels, one a picture, got shape {labels.shape}.")
    _check_labels(labels, len(FASHION_MNIST_CLASSES), labels_path)
    return torch.from_numpy(pictures), torch.from_numpy(labels).long()


def find_cifar10(root: Path) -> Path | None:
    """The folder at or below `root` with the files of CIFAR-10's binary version."""
    for folder in (root, root / "cifar-10-batches-bin"):
        if (folder / "test_batch.bin").is_file() or (folder / "data_batch_1.bin").is_file():
            return folder
    return None


def read_cifar10(folder: Path, split: Split) -> tuple[Tensor, Tensor]:
    """Pictures uint8 (n, 3, 32, 32) and labels int64 (n,) from the binary version (a row: label, red, green, blue).

    Raises:
        FileError: a file is missing, or is no whole number of rows, or holds a label above 9.
    """
    parts: list[Bytes] = []
    for path in (folder / name for name in _CIFAR10_FILES[split]):
        try:
            content = np.fromfile(path, np.uint8)
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
    """The folder at or below `root` with Flowers-102's pictures (jpg/) and labels (imagelabels.mat)."""
    for folder in (root, root / "flowers-102"):
        if (folder / "jpg").is_dir() and (folder / "imagelabels.mat").is_file():
            return folder
    return None


def read_flowers102(folder: Path, split: Split) -> tuple[list[str], Tensor]:
    """File names below `folder` and labels int64 (n,).

    "train" is every picture, as the paper trains on and measures against all of them (section 7); "test" is the set's
    own test split.

    Raises:
        SpherectlError: scipy, which reads the label files, is not installed.
        FileError: a label file is missing or damaged.
    """
    labels = _read_mat(folder / "imagelabels.mat", "labels")
    numbers = np.arange(1, len(labels) + 1) if split == "train" else np.sort(_read_mat(folder / "setid.mat", "tstid"))
    if len(labels) != _FLOWERS102_IMAGES or not 1 <= labels.min() <= labels.max() <= 102:
        raise FileError(f"{folder / 'imagelabels.mat'}: expected {_FLOWERS102_IMAGES} labels from 1 to 102.")
    return [f"jpg/image_{i:05d}.jpg" for i in numbers], torch.from_numpy(labels[numbers - 1] - 1)


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _check_labels(labels: Bytes, classes: int, path: Path) -> None:
    if labels.size and labels.max() >= classes:
        raise FileError(f"{path}: expected labels below {classes}, got {labels.max()}.")


def _read_mat(path: Path, key: str) -> npt.NDArray[np.int64]:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise SpherectlError(
            f"The labels of Flowers-102 ({path}) need scipy to be read.", "pip install scipy"
        ) from None
    try:
        return np.asarray(loadmat(io.BytesIO(path.read_bytes()))[key]).ravel().astype(np.int64)
    # scipy raises what its parser trips over; each means that the file is not what was published.
    except Exception as error:  # noqa: BLE001
        reason = getattr(error, "strerror", None) or f"no readable table {key!r}"
        raise FileError(f"Cannot read {path}: {reason}.", "Remove the file and fetch it again.") from None

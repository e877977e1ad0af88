"""Readers against files written byte by byte here, and against the excerpt's published bytes."""

from __future__ import annotations

import builtins
import gzip
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from spherectl.data import formats
from spherectl.errors import FileError, SpherectlError

pytestmark = pytest.mark.fast

EXCERPT = Path(__file__).parent / "fashion-excerpt"


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return bytes((0, 0, kind, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 28, 28), (0, 28, 28)])
@pytest.mark.parametrize("packed", [False, True])
def test_idx_round_trip(tmp_path, shape, packed):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    read = formats.read_idx(path)
    assert read.shape == shape
    assert (read == array).all()
    assert read.flags.writeable


WHOLE = idx(np.arange(12, dtype=np.uint8).reshape(3, 4))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an idx file"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "expected it to begin with 00 00 08, got 00 00 0d"),
        (b"PK\x03\x04 something else", "not an idx file"),
        (WHOLE[:9], "ends within its header"),
        (WHOLE[:-1], "header says 3 x 4 = 12 bytes, 11 are there"),
        (WHOLE + b"x", "= 12 bytes, more are there"),
        (gzip.compress(WHOLE)[:-6], "Cannot read"),
        (gzip.compress(WHOLE)[:12] + b"\xff" * 20, "not an idx file"),
    ],
    ids=["empty", "floats", "zip", "header", "short", "long", "short-gzip", "broken-gzip"],
)
def test_damaged_idx_files_are_named(tmp_path, content, reason):
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with pytest.raises(FileError, match=reason) as caught:
        formats.read_idx(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


def promised(*shape: int) -> bytes:
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (promised(60_000, 28, 28), "47040000 bytes, 0 are there"),
        (promised(1 << 31, 28, 28), "2147483648 x 28 x 28 bytes; expected at most 4 dimensions and 629,145,600 bytes"),
        (promised(*[2] * 255), "2 x 2 x 2 x 2 and 251 more bytes; expected at most 4 dimensions"),
        (promised(3, 4) + bytes(12) + bytes(1 << 27), "= 12 bytes, more are there"),
        (promised(28) + bytes(1 << 27), "= 28 bytes, more are there"),
    ],
    ids=["promise", "huge", "dimensions", "bomb", "labels"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_that_promise_or_hold_gigabytes(tmp_path, content, reason, packed):
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    del content
    tracemalloc.start()
    try:
        with pytest.raises(FileError, match=reason) as caught:
            formats.read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "data_batch_1.bin", "imagelabels.mat"])
def test_pipes_are_refused_at_once(tmp_path, name):
    os.mkfifo(tmp_path / name)
    (tmp_path / "jpg").mkdir()
    read = {"t": formats.read_fashion_mnist, "d": formats.read_cifar10, "i": formats.read_flowers102}[name[0]]
    with pytest.raises(FileError, match=f"Cannot read .*{name}: it is not a regular file"):
        read(tmp_path, "train")


def test_missing_idx_file(tmp_path):
    with pytest.raises(FileError, match="No such file"):
        formats.read_idx(tmp_path / "missing")


@pytest.mark.parametrize(("split", "count"), [("train", 300), ("test", 100)])
def test_excerpt_is_class_balanced_fashion_mnist(split, count):
    images, labels = formats.read_fashion_mnist(EXCERPT, split)
    assert images.shape == (count, 28, 28)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [count // 10] * 10


def test_first_training_images_are_the_published_ones():
    # The published training set begins with the labels 9 0 0 3 0 2 7 2 5 5; its first image is an ankle boot, whose
    # sole is bright and whose upper right corner is black.
    images, labels = formats.read_fashion_mnist(EXCERPT, "train")
    assert labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert images[0, :3].sum() == 0
    assert images[0, 20:24].float().mean() > 150


def test_fashion_mnist_in_torchvisions_folder_and_unpacked(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    assert formats.find_fashion_mnist(tmp_path) is None
    for path in EXCERPT.glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    assert formats.find_fashion_mnist(tmp_path) == raw
    assert formats.find_fashion_mnist(raw) == raw
    for split in ("train", "test"):
        for ours, published in zip(
            formats.read_fashion_mnist(raw, split), formats.read_fashion_mnist(EXCERPT, split), strict=True
        ):
            assert torch.equal(ours, published)


def test_fashion_mnist_files_that_do_not_belong_together(tmp_path):
    def write(images: np.ndarray, labels: np.ndarray) -> None:
        (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))

    zeros = np.zeros((3, 28, 28), np.uint8)
    write(zeros, np.zeros(2, np.uint8))
    with pytest.raises(FileError, match="expected 3 labels"):
        formats.read_fashion_mnist(tmp_path, "train")
    write(zeros[:, :27], np.zeros(3, np.uint8))
    with pytest.raises(FileError, match="28 x 28"):
        formats.read_fashion_mnist(tmp_path, "train")
    write(zeros, np.array([0, 10, 1], np.uint8))
    with pytest.raises(FileError, match="labels below 10, got 10"):
        formats.read_fashion_mnist(tmp_path, "train")
    with pytest.raises(FileError, match=r"t10k-images-idx3-ubyte\.gz: No such file"):
        formats.read_fashion_mnist(tmp_path, "test")


def cifar10_rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, bytes]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 10, count, np.uint8)
    planes = generator.integers(0, 256, (count, 3, 32, 32), np.uint8)
    rows = b"".join(bytes([label]) + image.tobytes() for label, image in zip(labels, planes, strict=True))
    return labels, planes, rows


def test_cifar10_binary(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    assert formats.find_cifar10(tmp_path) is None
    parts = {f"data_batch_{i}.bin": cifar10_rows(i, seed=i) for i in range(1, 6)} | {
        "test_batch.bin": cifar10_rows(2, 9)
    }
    for name, (_, _, rows) in parts.items():
        (folder / name).write_bytes(rows)
    assert formats.find_cifar10(tmp_path) == folder
    assert formats.find_cifar10(folder) == folder
    for split, names in (("train", [f"data_batch_{i}.bin" for i in range(1, 6)]), ("test", ["test_batch.bin"])):
        images, labels = formats.read_cifar10(folder, split)
        assert labels.dtype == torch.int64
        assert (labels.numpy() == np.concatenate([parts[name][0] for name in names])).all()
        assert (images.numpy() == np.concatenate([parts[name][1] for name in names])).all()


def test_damaged_cifar10(tmp_path):
    _, _, rows = cifar10_rows(3, seed=0)
    path = tmp_path / "test_batch.bin"
    for content, reason in (
        (rows[:-1], "rows of 3073 bytes, got 9218"),
        (b"", "got 0 bytes"),
        (b"\x0b" + rows[1:], "got 11"),
    ):
        path.write_bytes(content)
        with pytest.raises(FileError, match=reason):
            formats.read_cifar10(tmp_path, "test")
    with pytest.raises(FileError, match=r"data_batch_1\.bin: No such file"):
        formats.read_cifar10(tmp_path, "train")


@pytest.fixture
def flowers(tmp_path):
    """The layout of Flowers-102 with its label tables, by scipy's writer: image i is of class i mod 102."""
    from scipy.io import savemat

    (tmp_path / "flowers-102" / "jpg").mkdir(parents=True)
    folder = tmp_path / "flowers-102"
    savemat(folder / "imagelabels.mat", {"labels": 1 + np.arange(1, 8190)[None] % 102})
    savemat(folder / "setid.mat", {"tstid": np.array([[8189, 7, 100]]), "trnid": [[1]], "valid": [[2]]})
    return folder


def test_flowers102_trains_on_all_images(flowers):
    assert formats.find_flowers102(flowers.parent) == formats.find_flowers102(flowers) == flowers
    names, labels = formats.read_flowers102(flowers, "train")
    assert len(names) == len(labels) == 8189
    assert (names[0], names[-1]) == ("jpg/image_00001.jpg", "jpg/image_08189.jpg")
    assert torch.equal(labels, torch.arange(1, 8190) % 102)


def test_flowers102_test_split(flowers):
    names, labels = formats.read_flowers102(flowers, "test")
    assert names == ["jpg/image_00007.jpg", "jpg/image_00100.jpg", "jpg/image_08189.jpg"]
    assert labels.tolist() == [7, 100, 8189 % 102]


def test_flowers102_without_scipy_is_one_sentence(flowers, monkeypatch):
    real = builtins.__import__

    def without_scipy(name, *args, **kwargs):
        if name.split(".")[0] == "scipy":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_scipy)
    with pytest.raises(SpherectlError, match="need scipy") as caught:
        formats.read_flowers102(flowers, "train")
    assert caught.value.hint == "pip install scipy"


def test_cifar10_files_longer_than_any_published(tmp_path):
    with (tmp_path / "test_batch.bin").open("wb") as file:
        file.truncate(3073 << 20)
    with pytest.raises(FileError, match="it has more than 61,460,000 bytes"):
        formats.read_cifar10(tmp_path, "test")


def packed_table(content: bytes) -> bytes:
    content = zlib.compress(content)
    return b" " * 124 + b"\0\1IM" + struct.pack("<II", 15, len(content)) + content


def table(kind: int, shape: tuple[int, int], name: bytes = b"labels\0\0", data: bytes = b"") -> bytes:
    """A table in MATLAB's format 5: flags, shape, name, data."""
    content = struct.pack("<IIII", 6, 8, kind, 0) + struct.pack("<IIii", 5, 8, *shape)
    content += struct.pack("<II", 1, 6) + name + data
    return struct.pack("<II", 14, len(content)) + content


MAT = {
    "bomb": packed_table(bytes(100 << 20)),
    "bomb-second": packed_table(table(9, (1, 1), b"another\0")) + packed_table(bytes(100 << 20))[128:],
    "cells": packed_table(table(1, (1, 100_000))),
    "many-cells": packed_table(table(1, (46_340, 46_340))),
    "struct": packed_table(table(2, (46_340, 46_340), data=struct.pack("<HHIII", 5, 4, 32, 1, 0))),
    "promise": packed_table(table(9, (1, 8189), data=struct.pack("<II", 2, 0xFFFFFFF0))),
    "shape": packed_table(table(9, (46_340, 46_340), data=struct.pack("<IIQ", 2, 4, 1))),
    "sparse": packed_table(table(5, (1, 8189))),
    "empty": packed_table(b""),
    "nothing": b"",
    "short": b" " * 128 + b"\x0e",
}


@pytest.mark.parametrize("made", MAT)
def test_tables_that_promise_or_unpack_to_gigabytes(flowers, made):
    (flowers / "imagelabels.mat").write_bytes(MAT[made])
    tracemalloc.start()
    try:
        with pytest.raises(FileError, match=r"imagelabels\.mat: (no readable table 'labels'|expected)"):
            formats.read_flowers102(flowers, "train")
        # scipy asks for the 4 GiB that are promised, and fills none of them.
        assert made == "promise" or tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("numbers", [[0, 1], [1, 8190], [-1], [1.0, float("nan")], [1 + 2j], [], ["a"]])
def test_numbers_of_no_image(flowers, numbers):
    from scipy.io import savemat

    savemat(flowers / "setid.mat", {"tstid": np.array(numbers)})
    with pytest.raises(FileError, match=r"setid\.mat: (expected tstid, numbers from 1 to 8189|no readable table)"):
        formats.read_flowers102(flowers, "test")


def test_damaged_flowers102(flowers):
    (flowers / "setid.mat").write_bytes(b"random bytes, no table")
    with pytest.raises(FileError, match=r"setid\.mat: no readable table 'tstid'"):
        formats.read_flowers102(flowers, "test")
    (flowers / "setid.mat").unlink()
    with pytest.raises(FileError, match=r"setid\.mat: No such file"):
        formats.read_flowers102(flowers, "test")

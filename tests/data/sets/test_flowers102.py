"""Flowers-102: tables by scipy's writer, tables made by hand to harm, and the set fetched from a server here."""

from __future__ import annotations

import hashlib
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision.datasets import Flowers102

from spherectl.data.datasets import open_dataset
from spherectl.data.sets import flowers102
from spherectl.errors import FileError, SpherectlError
from spherectl.recipe import DataSpec
from tests.data.bounded import bounded

pytestmark = pytest.mark.fast


@pytest.fixture
def flowers(tmp_path):
    """The layout of Flowers-102 with its label tables: image i is of class i mod 102."""
    folder = tmp_path / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    savemat(folder / "imagelabels.mat", {"labels": 1 + np.arange(1, 8190)[None] % 102})
    savemat(folder / "setid.mat", {"tstid": np.array([[8189, 7, 100]]), "trnid": [[1]], "valid": [[2]]})
    return folder


def test_training_takes_all_images_and_the_test_its_own(flowers):
    assert flowers102.find(flowers.parent) == flowers102.find(flowers) == flowers
    train, test = (flowers102.read(flowers, split) for split in ("train", "test"))
    assert len(train.names) == len(train.labels) == 8189
    assert (train.names[0], train.names[-1]) == (b"jpg/image_00001.jpg", b"jpg/image_08189.jpg")
    assert torch.equal(train.labels, torch.arange(1, 8190) % 102)
    assert test.names.tolist() == [b"jpg/image_00007.jpg", b"jpg/image_00100.jpg", b"jpg/image_08189.jpg"]
    assert test.labels.tolist() == [7, 100, 8189 % 102]
    assert len(train.class_names) == 102
    assert train.class_names[0] == "pink primrose"


def test_without_scipy_it_is_one_sentence(flowers, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(SpherectlError, match="need scipy") as caught:
        flowers102.read(flowers, "train")
    assert caught.value.hint == "pip install scipy"


def packed_table(content: bytes) -> bytes:
    content = zlib.compress(content)
    return b" " * 124 + b"\0\1IM" + struct.pack("<II", 15, len(content)) + content


def table(kind: int, shape: tuple[int, int], data: bytes = b"") -> bytes:
    """A table in MATLAB's format 5: flags, shape, name, data."""
    content = struct.pack("<IIII", 6, 8, kind, 0) + struct.pack("<IIii", 5, 8, *shape)
    content += struct.pack("<II", 1, 6) + b"labels\0\0" + data
    return struct.pack("<II", 14, len(content)) + content


MAT = {
    "bomb": packed_table(bytes(100 << 20)),
    "many-cells": packed_table(table(1, (46_340, 46_340))),
    "promise": packed_table(table(9, (1, 8189), struct.pack("<II", 2, 0xFFFFFFF0))),
    "shape": packed_table(table(9, (46_340, 46_340), struct.pack("<IIQ", 2, 4, 1))),
    "nothing": b"",
    "short": b" " * 128 + b"\x0e",
}


@pytest.mark.parametrize("made", MAT)
def test_tables_that_promise_or_unpack_to_gigabytes(flowers, made):
    (flowers / "imagelabels.mat").write_bytes(MAT[made])
    words = r"imagelabels\.mat: (no readable table 'labels'|expected)"
    # scipy asks for the 4 GiB that are promised, and fills none of them.
    with bounded(5 << 10 if made == "promise" else 64), pytest.raises(FileError, match=words):
        flowers102.read(flowers, "train")


@pytest.mark.parametrize("numbers", [[0, 1], [1, 8190], [1.0, float("nan")], []])
def test_numbers_of_no_image(flowers, numbers):
    savemat(flowers / "setid.mat", {"tstid": np.array(numbers)})
    with pytest.raises(FileError, match=r"setid\.mat: (expected tstid, numbers from 1 to 8189|no readable table)"):
        flowers102.read(flowers, "test")


def test_the_set_is_fetched_and_its_archive_removed(server, data_folder, monkeypatch, image_bytes, write_tar):
    images = {f"jpg/image_{i:05d}.jpg": image_bytes(20 * i, "jpg") for i in (1, 2, 3)}
    write_tar(server.folder / "102flowers.tgz", images, "w:gz")
    savemat(server.folder / "imagelabels.mat", {"labels": 1 + np.arange(8189)[None] % 102})
    savemat(server.folder / "setid.mat", {"trnid": [[1, 2]], "valid": [[2, 3]], "tstid": [[3, 1]]})
    files = {key: name for key, (name, _) in Flowers102._file_dict.items()}
    sums = {key: hashlib.md5((server.folder / name).read_bytes()).hexdigest() for key, name in files.items()}
    monkeypatch.setattr(Flowers102, "_download_url_prefix", server.url)
    monkeypatch.setattr(Flowers102, "_file_dict", {key: (files[key], sums[key]) for key in files})
    train, test = (open_dataset(DataSpec(kind="flowers102"), 8, split=split) for split in ("train", "test"))
    assert (len(train), test.labels.tolist()) == (8189, [0, 2])
    assert train.gather([0, 2])[:, 0, 0, 0].tolist() == test.gather([0, 1])[:, 0, 0, 0].tolist() == [20, 60]
    assert not list(data_folder.rglob("*.tgz"))

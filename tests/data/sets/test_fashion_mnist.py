"""Fashion-MNIST: the excerpt against what is published, and files that do not belong together."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

from spherectl.data.sets import fashion_mnist
from spherectl.errors import FileError

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(("split", "count"), [("train", 300), ("test", 100)])
def test_excerpt_is_class_balanced_fashion_mnist(split, count, fashion_excerpt):
    images, labels = fashion_mnist.read(fashion_excerpt, split)
    assert (images.shape, images.dtype, labels.dtype) == ((count, 28, 28), torch.uint8, torch.int64)
    assert labels.bincount().tolist() == [count // 10] * 10
    if split == "train":  # as published: 9 0 0 3 0 2 7 2 5 5; an ankle boot, its sole bright, its upper corners black
        assert labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
        assert images[0, :3].sum() == 0
        assert images[0, 20:24].float().mean() > 150


def test_torchvisions_folder_and_unpacked_files(tmp_path, fashion_excerpt):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    assert fashion_mnist.find(tmp_path) is None
    for path in fashion_excerpt.glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    assert fashion_mnist.find(tmp_path) == fashion_mnist.find(raw) == raw
    for split in ("train", "test"):
        ours, published = (fashion_mnist.read(folder, split) for folder in (raw, fashion_excerpt))
        assert all(torch.equal(a, b) for a, b in zip(ours, published, strict=True))


def test_files_that_do_not_belong_together(tmp_path):
    def idx(array: np.ndarray) -> bytes:
        return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()

    zeros, labels = np.zeros((3, 28, 28), np.uint8), np.zeros(3, np.uint8)
    for images, numbers, words in (
        (zeros, labels[:2], "expected 3 labels"),
        (zeros[:, :27], labels, "28 x 28"),
        (zeros, np.array([0, 10, 1], np.uint8), "labels below 10, got 10"),
    ):
        (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(numbers))
        with pytest.raises(FileError, match=words):
            fashion_mnist.read(tmp_path, "train")

"""CIFAR-10: rows written here, read back, damaged, and fetched from a server on this machine."""

from __future__ import annotations

import hashlib
import io
import tarfile

import numpy as np
import pytest
import torch

from spherectl.data.datasets import open_dataset
from spherectl.data.sets import cifar10
from spherectl.errors import FileError, SpherectlError
from spherectl.recipe import DataSpec

pytestmark = pytest.mark.fast

CIFAR10 = DataSpec(kind="cifar10")
FILES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
ARCHIVE = "cifar-10-binary.tar.gz"


@pytest.fixture
def rows() -> np.ndarray:
    """Twelve rows of a label and three planes, two a file."""
    generator = np.random.default_rng(0)
    rows = generator.integers(0, 256, (12, 3073), np.uint8)
    rows[:, 0] %= 10
    return rows


@pytest.fixture
def served(server, rows, monkeypatch) -> np.ndarray:
    """The rows, which the server has as the published archive."""
    with tarfile.open(server.folder / ARCHIVE, "w:gz") as tar:
        for i, name in enumerate(FILES):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = 2 * 3073
            tar.addfile(info, io.BytesIO(rows[2 * i : 2 * i + 2].tobytes()))
    monkeypatch.setattr(cifar10, "URL", server.url + ARCHIVE)
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5((server.folder / ARCHIVE).read_bytes()).hexdigest())
    return rows


def test_binary_version(tmp_path, rows):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    assert cifar10.find(tmp_path) is None
    for i, name in enumerate(FILES):
        rows[2 * i : 2 * i + 2].tofile(folder / name)
    assert cifar10.find(tmp_path) == cifar10.find(folder) == folder
    images = open_dataset(CIFAR10, 32, root=tmp_path)
    assert (images.in_memory, images.class_names[:2]) == (True, ("airplane", "automobile"))
    assert torch.equal(images.gather(torch.arange(10)), torch.from_numpy(rows[:10, 1:].reshape(10, 3, 32, 32)))
    assert images.labels.tolist() == rows[:10, 0].tolist()


def test_damaged_files(tmp_path, rows):
    path, content = tmp_path / "test_batch.bin", rows[:3].tobytes()
    for damaged, words in (
        (content[:-1], "rows of 3073 bytes, got 9218"),
        (b"", "got 0 bytes"),
        (b"\x0b" + content[1:], "got 11"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=words):
            cifar10.read(tmp_path, "test")
    with path.open("wb") as file:
        file.truncate(3073 << 20)
    with pytest.raises(FileError, match="it has more than 61,460,000 bytes"):
        cifar10.read(tmp_path, "test")


def test_the_set_is_fetched_once(server, served, data_folder, capfd):
    said: list[str] = []
    train = open_dataset(CIFAR10, 32, progress=said.append)
    assert set(server.asked) == {f"/{ARCHIVE}"}
    server.asked.clear()
    test = open_dataset(CIFAR10, 32, split="test", progress=said.append)
    assert server.asked == [], "what is here is not fetched again"
    assert said == [
        f"Fetching CIFAR-10 (binary version) (170 MB) from www.cs.toronto.edu/~kriz/cifar.html into {data_folder}"
    ]
    assert capfd.readouterr() == ("", ""), "torchvision's own bars are not shown"
    assert train.labels.tolist() == served[:10, 0].tolist()
    assert test.labels.tolist() == served[10:, 0].tolist()
    assert [path.name for path in data_folder.iterdir() if not path.name.startswith(".")] == ["cifar-10-batches-bin"]


def test_another_file_under_its_address_leaves_no_set(server, served, data_folder):
    whole = (server.folder / ARCHIVE).read_bytes()
    (server.folder / ARCHIVE).write_bytes(whole[:-20])
    with pytest.raises(SpherectlError, match=r"Cannot fetch cifar-10-binary\.tar\.gz: .* not the published MD5 sum"):
        open_dataset(CIFAR10, 32)
    assert not (data_folder / "cifar-10-batches-bin").exists()
    (server.folder / ARCHIVE).write_bytes(whole)
    assert len(open_dataset(CIFAR10, 32)) == 10, "the next attempt starts over"

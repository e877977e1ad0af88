"""CIFAR-10 and Flowers-102 fetched from a server on this machine, unpacked by torchvision's own code, and opened."""

from __future__ import annotations

import hashlib
import io
import itertools
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import Flowers102

from spherectl import transfer
from spherectl.data import download
from spherectl.data.datasets import open_dataset
from spherectl.errors import SpherectlError
from spherectl.recipe import DataSpec
from tests.serving import speaking

pytestmark = pytest.mark.fast


def write_archive(path: Path, members: dict[str, bytes]) -> str:
    """A tar.gz at `path`; returns its MD5."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def data_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SPHERECTL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("spherectl.data.datasets.SYSTEM_DATA", tmp_path / "system")
    return tmp_path / "data"


@pytest.fixture
def cifar10(server, monkeypatch) -> np.ndarray:
    """The rows that the server has, two a file."""
    rows = np.random.default_rng(0).integers(0, 10, (12, 3073), np.uint8)
    files = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    members = {f"cifar-10-batches-bin/{name}": rows[2 * i : 2 * i + 2].tobytes() for i, name in enumerate(files)}
    md5 = write_archive(server.folder / "cifar-10-binary.tar.gz", members)
    monkeypatch.setattr(download, "CIFAR10_URL", server.url + "cifar-10-binary.tar.gz")
    monkeypatch.setattr(download, "CIFAR10_MD5", md5)
    return rows


def test_cifar10(server, cifar10, data_folder):
    train = open_dataset(DataSpec(kind="cifar10"), 32)
    assert set(server.asked) == {"/cifar-10-binary.tar.gz"}
    server.asked.clear()
    test = open_dataset(DataSpec(kind="cifar10"), 32, split="test")
    assert server.asked == [], "what is here is not fetched again"
    assert torch.equal(train.gather(range(10)), torch.from_numpy(cifar10[:10, 1:].reshape(10, 3, 32, 32)))
    assert test.labels.tolist() == cifar10[10:, 0].tolist()
    assert [path.name for path in data_folder.iterdir() if not path.name.startswith(".")] == ["cifar-10-batches-bin"]


def test_another_file_under_cifar10s_address_is_refused(server, cifar10, data_folder):
    write_archive(server.folder / "cifar-10-binary.tar.gz", {"other": b""})
    with pytest.raises(
        SpherectlError, match=r"Cannot fetch cifar-10-binary\.tar\.gz: what comes from .* has not the published MD5 sum"
    ):
        open_dataset(DataSpec(kind="cifar10"), 32)
    assert not (data_folder / "cifar-10-batches-bin").exists()


def test_flowers102(server, data_folder, monkeypatch, image_bytes):
    from scipy.io import savemat

    images = {f"jpg/image_{i:05d}.jpg": image_bytes(20 * i, "jpg") for i in (1, 2, 3)}
    sums = {"image": write_archive(server.folder / "102flowers.tgz", images)}
    savemat(server.folder / "imagelabels.mat", {"labels": 1 + np.arange(8189)[None] % 102})
    ids = {"trnid": [[1, 2]], "valid": [[2, 3]], "tstid": [[3, 1]]}
    savemat(server.folder / "setid.mat", {name: np.array(numbers) for name, numbers in ids.items()})
    for name, key in (("imagelabels.mat", "label"), ("setid.mat", "setid")):
        sums[key] = hashlib.md5((server.folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(Flowers102, "_download_url_prefix", server.url)
    known = {key: (name, sums[key]) for key, (name, _) in Flowers102._file_dict.items()}
    monkeypatch.setattr(Flowers102, "_file_dict", known)
    train, test = (open_dataset(DataSpec(kind="flowers102"), 8, split=split) for split in ("train", "test"))
    assert (len(train), test.labels.tolist()) == (8189, [0, 2])
    assert train.gather([0, 2])[:, 0, 0, 0].tolist() == [20, 60]
    assert test.gather([0, 1])[:, 0, 0, 0].tolist() == [20, 60]
    assert not list(data_folder.rglob("*.tgz"))


def test_an_endless_answer_is_one_sentence(data_folder, monkeypatch):
    """And nothing of it stays."""
    monkeypatch.setattr(transfer, "MAX_FILE", 1 << 20)
    endless = itertools.chain([b"HTTP/1.1 200 OK\r\n\r\n"], itertools.repeat(bytes(1 << 16)))
    with speaking(lambda *_: endless) as speaker:
        monkeypatch.setattr(download, "CIFAR10_URL", f"{speaker.url}cifar-10-binary.tar.gz")
        with pytest.raises(SpherectlError, match="has more than 1,048,576 bytes"):
            open_dataset(DataSpec(kind="cifar10"), 32)
    assert [path for path in data_folder.rglob("*") if path.is_file() and path.suffix != ".lock"] == []

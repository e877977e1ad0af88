"""Fetching with the network replaced: what arrives, what a refusal says, what an interrupted fetch leaves."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import urllib.request

import pytest
import torchvision.datasets
import torchvision.datasets.utils

from spherectl.data import download
from spherectl.data.download import fetch_set
from spherectl.errors import FileError, SpherectlError

pytestmark = pytest.mark.fast


@pytest.fixture
def served(monkeypatch):
    """What the network answers: bytes by address; all else is refused. No test here opens a connection."""
    answers: dict[str, bytes] = {}
    asked: list[str] = []

    def answer(url, file, path):
        asked.append(url)
        if url not in answers:
            raise SpherectlError(f"Cannot fetch {path} from {url}: no connection.")
        print("a bar", file=sys.stderr)
        file.write_bytes(answers[url])

    monkeypatch.setattr(download, "download", answer)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("torchvision asked the network"))
    answers["asked"] = asked
    return answers


def archive(**files: bytes) -> bytes:
    """A tar.gz with the files in the folder that CIFAR-10's has."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


ADDRESS = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"


@pytest.fixture
def known_sum(monkeypatch):
    """Let torchvision's MD5 check expect the archive made here instead of the published one."""
    content = archive(test_batch=b"rows", data_batch_1=b"more rows")
    real = torchvision.datasets.utils.check_md5

    def check(path, md5, **kwargs):
        if md5 == "c32a1d4ab5d03f1284b67883e8d87530":
            md5 = hashlib.md5(content).hexdigest()
        return real(path, md5, **kwargs)

    monkeypatch.setattr(torchvision.datasets.utils, "check_md5", check)
    return content


def test_cifar10_arrives_whole_and_quietly(tmp_path, served, known_sum, capfd):
    served[ADDRESS] = known_sum
    said: list[str] = []
    place = fetch_set("cifar10", tmp_path / "data", progress=said.append)
    assert place == tmp_path / "data" / "cifar-10-batches-bin"
    assert (place / "test_batch.bin").read_bytes() == b"rows"
    assert len(said) == 1
    assert "CIFAR-10" in said[0]
    assert str(tmp_path / "data") in said[0]
    assert capfd.readouterr() == ("", "")
    left = {path.name for path in (tmp_path / "data").iterdir()}
    assert left <= {"cifar-10-batches-bin", ".cifar-10-batches-bin.lock"}

    assert fetch_set("cifar10", tmp_path / "data", progress=said.append) == place
    assert len(said) == len(served["asked"]) == 1, "a set that is there is not fetched again"


def test_wrong_sum_leaves_no_set(tmp_path, served, known_sum):
    served[ADDRESS] = known_sum[:-20]
    with pytest.raises(SpherectlError, match="has not the published MD5 sum"):
        fetch_set("cifar10", tmp_path)
    assert not (tmp_path / "cifar-10-batches-bin").exists()
    served[ADDRESS] = known_sum
    assert (fetch_set("cifar10", tmp_path) / "test_batch.bin").exists(), "the next attempt starts over"


def test_killed_fetch_leaves_no_set(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def half(into):
        (into / "FashionMNIST" / "raw").mkdir(parents=True)
        raise Killed

    monkeypatch.setitem(download._SOURCES, "fashion-mnist", download._SOURCES["fashion-mnist"]._replace(fetch=half))
    with pytest.raises(Killed):
        fetch_set("fashion-mnist", tmp_path)
    assert not (tmp_path / "FashionMNIST").exists()


@pytest.mark.parametrize("kind", ["fashion-mnist", "cifar10", "flowers102"])
def test_refused_network_is_one_sentence_and_a_way_out(tmp_path, served, kind):
    with pytest.raises(SpherectlError, match=r": no connection\. ") as caught:
        fetch_set(kind, tmp_path)
    assert caught.value.message.startswith("Cannot fetch ")
    assert "\n" not in caught.value.message
    assert "--data PATH" in caught.value.hint
    assert caught.value.exit_code == 1
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


def test_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(into):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(download._SOURCES, "cifar10", download._SOURCES["cifar10"]._replace(fetch=full))
    with pytest.raises(FileError, match=r"Cannot write to the data folder .*: No space left on device\.") as caught:
        fetch_set("cifar10", tmp_path)
    assert "--data PATH" in caught.value.hint


def test_data_folder_that_is_a_file(tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises(FileError, match="Cannot write to the data folder"):
        fetch_set("cifar10", tmp_path / "data")


def test_offline_opens_no_connection(tmp_path, served):
    with pytest.raises(SpherectlError, match="offline mode forbids"):
        fetch_set("flowers102", tmp_path, offline=True)
    assert served["asked"] == []

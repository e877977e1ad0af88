"""Fetching a set: what a refusal says, and what an interrupted fetch leaves (tests/data/sets fetches the real ones)."""

from __future__ import annotations

import dataclasses
import urllib.request

import pytest

from spherectl.data import download
from spherectl.data.download import fetch_set
from spherectl.data.sets import records
from spherectl.errors import FileError, SpherectlError

pytestmark = pytest.mark.fast

SOURCES = {name: record.download for name, record in records().items() if record.download is not None}


@pytest.mark.parametrize("stopped", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_fetch_that_stops_halfway_leaves_no_set(tmp_path, stopped):
    def half(into):
        (into / "cifar-10-batches-bin").mkdir(parents=True)
        raise stopped

    words = r"^$|Cannot write to the data folder .*: No space left on device\."
    with pytest.raises((KeyboardInterrupt, FileError), match=words):
        fetch_set(dataclasses.replace(SOURCES["cifar10"], fetch=half), tmp_path)
    assert not (tmp_path / "cifar-10-batches-bin").exists()


@pytest.mark.parametrize("kind", ["fashion-mnist", "cifar10", "flowers102"])
def test_refused_network_is_one_sentence_and_a_way_out(tmp_path, monkeypatch, kind):
    def refuse(url, file, path):
        raise SpherectlError(f"Cannot fetch {path} from {url}: no connection.")

    monkeypatch.setattr(download, "download", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("torchvision asked the network"))
    with pytest.raises(SpherectlError, match=r"^Cannot fetch .*: no connection\. ") as caught:
        fetch_set(SOURCES[kind], tmp_path)
    assert "--data PATH" in caught.value.hint
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]

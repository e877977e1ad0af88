"""Shards from a server on this machine: what is fetched when, what is shown, what is kept, what each failure says."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import threading
from collections.abc import Iterator

import pytest
import torch

from spherectl import downloader
from spherectl.data import remote, streamed
from spherectl.data.datasets import open_dataset
from spherectl.data.order import Batch, image_numbers, training_batches
from spherectl.data.remote import WINDOW, fetch_shard, open_index
from spherectl.data.streamed import RemoteImages
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.recipe import DataSpec
from spherectl.settings import load_settings
from tests.serving import speaking

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("waits")]

SEED = 2**33 + 1


@pytest.fixture
def serve(server, write_tar, labelled):
    """Write shards of so many images, their grey their number, and the index; labels count up to 3."""

    def serve(*counts: int, classes: bool = True, **more: object) -> str:
        first, entries = 0, []
        for i, count in enumerate(counts):
            path = write_tar(
                server.folder / "set" / f"{i:06d}.tar", labelled(first, [k % 3 for k in range(first, first + count)])
            )
            content = path.read_bytes()
            sums = {"md5sum": hashlib.md5(content).hexdigest(), "filesize": len(content)}
            entries.append({"url": path.name, "nsamples": count, **sums, **more})
            first += count
        if classes:
            (server.folder / "set" / "classes.txt").write_text("cat\ndog\neel\n")
        document = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": entries}
        (server.folder / "set" / "index.json").write_text(json.dumps(document))
        return server.url + "set/index.json"

    return serve


def opened(url: str, **options) -> RemoteImages:
    dataset = open_dataset(DataSpec(kind="shards"), 8, root=url, **options)
    assert isinstance(dataset, RemoteImages)
    return dataset


def take(dataset, count: int, **options) -> list[Batch]:
    batches = training_batches(dataset, seed=SEED, flip=False, **options)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def greys(batches: list[Batch]) -> list[int]:
    return torch.cat([batch.images[:, 0, 0, 0] for batch in batches]).tolist()


@pytest.mark.parametrize("given", ["set/index.json", "set/", "set/{000000..000002}.tar"])
def test_an_index_a_folder_and_a_pattern(serve, server, given):
    serve(5, 3, 4)
    dataset = opened(server.url + given)
    assert (len(dataset), dataset.shard_counts, dataset.class_names) == (12, (5, 3, 4), ("cat", "dog", "eel"))
    assert (dataset.name, dataset.origin) == ("set", server.url + given)
    assert server.count(".tar") == 0, "all is known before a shard is fetched"
    assert dataset.gather([0, 6, 11])[:, 0, 0, 0].tolist() == [0, 6, 11]


def test_a_pattern_may_take_a_part_and_another_index_is_another_cache(serve, server):
    serve(5, 3, 4)
    dataset = opened(server.url + "set/{000001..000002}.tar")
    assert dataset.gather([0, 6])[:, 0, 0, 0].tolist() == [5, 11]
    with pytest.raises(UsageError, match=r"does not list 1 of the 4 shards .*000003\.tar"):
        opened(server.url + "set/{000000..000003}.tar")
    serve(4, 6, filesize=0, md5sum=None)  # both may be left out
    assert opened(server.url + "set/{000000..000001}.tar").gather([5])[0, 0, 0, 0] == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_images_and_labels_are_those_of_the_order_and_each_shard_is_fetched_once(serve, server, workers):
    counts = (7, 4, 9, 6)
    dataset = opened(serve(*counts))
    for start in (0, 31):
        batches = take(dataset, 6, batch_size=10, start_image=start, workers=workers)
        expected = image_numbers(SEED, start, 60, 26, counts)
        assert greys(batches) == expected.tolist()
        assert torch.equal(torch.cat([batch.labels for batch in batches]), expected % 3)
    parts = [take(dataset, 6, batch_size=10, start_image=31, workers=0, share=share) for share in ((0, 3), (3, 10))]
    assert [grey for pair in zip(*parts, strict=True) for grey in greys(list(pair))] == greys(batches)
    assert sorted(path for path in server.asked if path.endswith(".tar")) == [f"/set/{i:06d}.tar" for i in range(4)]


def test_what_is_next_is_fetched_ahead_and_no_more(serve, server, monkeypatch):
    counts = (2,) * 4 * WINDOW
    dataset = opened(serve(*counts))
    batches = training_batches(dataset, seed=SEED, batch_size=2, flip=False, workers=0)
    for _ in range(2):
        next(batches)
    batches.close()  # waits for the piece that is under way
    first = {int(number) // 2 for number in image_numbers(SEED, 0, 4 * WINDOW, sum(counts), counts)}
    fetched = {int(path[-10:-4]) for path in server.asked if path.endswith(".tar")}
    assert fetched <= first, "of the first two windows"
    assert {int(number) // 2 for number in image_numbers(SEED, 0, 4, sum(counts), counts)} <= fetched


def test_a_fetch_that_nobody_waits_for_is_given_up(serve):
    """And what killed ones left is removed by the next."""
    dataset = opened(serve(2))
    dataset.index.folder.mkdir(parents=True)
    (dataset.index.folder / ".000000.tar.abc.tmp.tar").write_bytes(b"half")
    stop = threading.Event()
    stop.set()
    with pytest.raises(remote.StoppedError):
        fetch_shard(dataset.index, 0, stop)
    assert not list(dataset.index.folder.glob("*.tar"))
    assert not list(dataset.index.folder.glob(".*"))


def test_few_shards_are_kept_and_a_lost_one_is_fetched_again(serve, server, monkeypatch):
    monkeypatch.setattr(remote, "KEPT", 3)
    monkeypatch.setattr(streamed, "KEPT", 3)
    dataset = opened(serve(*(2,) * 8))
    expected = image_numbers(SEED, 0, 32, 16, (2,) * 8)
    assert greys(take(dataset, 16, batch_size=2, workers=0)) == expected.tolist()
    assert len(list(dataset.index.folder.glob("*.tar"))) == 3
    assert len(dataset._open) <= 3
    assert server.count(".tar") > 8
    for path in dataset.index.folder.glob("*.tar"):
        path.unlink()
    assert dataset.gather([int(n) for n in expected[:4]])[:, 0, 0, 0].tolist() == expected[:4].tolist()


def test_a_shard_that_goes_between_its_fetch_and_its_reading_is_fetched_again(serve, server, monkeypatch):
    dataset = opened(serve(2, 2))

    def fetch_and_lose(index, number):
        path = fetch_shard(index, number)
        if server.count(".tar") == 1:
            path.unlink()
        return path

    monkeypatch.setattr(streamed, "fetch_shard", fetch_and_lose)
    assert dataset.gather([3, 2])[:, 0, 0, 0].tolist() == [3, 2]
    assert server.count(".tar") == 2


def test_offline_what_is_kept_is_enough(serve, server, monkeypatch):
    url = serve(2, 2)
    opened(url).gather([0])
    asked = len(server.asked)
    monkeypatch.setenv("SPHERECTL_OFFLINE", "true")
    dataset = opened(url)
    assert dataset.gather([1])[0, 0, 0, 0] == 1
    assert dataset.class_names == ("cat", "dog", "eel")
    with pytest.raises(SpherectlError, match=r"000001\.tar is not in the cache, .* SPHERECTL_OFFLINE says to stay off"):
        dataset.gather([2])
    with pytest.raises(SpherectlError, match=r"other\.json is not in the cache"):
        opened(server.url + "other.json")
    (kept,) = load_settings().cache.rglob("index.json")
    kept.write_text("{")
    with pytest.raises(SpherectlError, match="is not JSON"):
        opened(url)
    assert len(server.asked) == asked
    monkeypatch.delenv("SPHERECTL_OFFLINE")
    assert len(opened(url)) == 4, "a damaged index comes anew"


def test_without_class_names_there_are_no_classes(serve, server):
    dataset = opened(serve(2, classes=False))
    assert (dataset.class_names, dataset.labels.tolist()) == ((), [0, 0])
    assert dataset.read([1]).labels.tolist() == [0]
    (server.folder / "set" / "class_names.json").write_text('["a", "b", "c"]')
    assert opened(server.url + "set/").class_names == ("a", "b", "c")
    (server.folder / "set" / "class_names.json").unlink()
    server.answers["/set/classes.txt"] = 451  # a store says 403 or 404 where there are none; all else is an error
    with pytest.raises(SpherectlError, match="the server says 451"):
        opened(server.url + "set/")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_does_not_come_is_one_sentence(serve, server, workers):
    dataset = opened(serve(20))
    server.answers["/set/000000.tar"] = 404
    with pytest.raises(SpherectlError, match=r"Cannot fetch 000000\.tar from .*set/000000\.tar: the server says 404"):
        take(dataset, 1, batch_size=4, workers=workers)
    assert not list(dataset.index.folder.glob("*.tar"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"filesize": 1}, r"more than 1 bytes; 000000\.tar must have 1"),
        ({"md5sum": "0" * 32}, r"000000\.tar is damaged: its MD5 is .*; the index says 0000"),
        ({"nsamples": 3}, r"000000\.tar holds 2 images; the index says 3\."),
    ],
)
def test_a_shard_that_is_not_as_listed_is_one_sentence(serve, more, words):
    with pytest.raises(SpherectlError, match=words):
        opened(serve(2, **more)).gather([0])


LISTING = '{"wids_version": 1, "shardlist": [%s]}'


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("[" * 5000, "is not JSON: it is nested deeper than 64"),
        (LISTING % '{"url": 3, "nsamples": 1}', 'shardlist.0.url: expected text in "quotes", got 3'),
        (LISTING % ",".join(['{"url": "0.tar", "nsamples": 1000000}'] * 68), "lists 68,000,000 images; at most"),
        (LISTING % '{"url": "https://a:b@x/0.tar", "nsamples": 1}', "url: expected an address of 'x' without"),
        (LISTING % '{"url": "file:///etc/passwd", "nsamples": 1}', "expected an https address"),
        (LISTING % '{"url": "0.tar.gz", "nsamples": 1}', "is compressed"),
    ],
)
def test_a_wrong_index_is_one_sentence(server, document, words):
    (server.folder / "index.json").write_text(document)
    with pytest.raises(SpherectlError, match=re.escape(words)) as caught:
        opened(server.url + "index.json")
    assert server.url in caught.value.message


def test_an_address_is_for_training_on_shards_and_needs_a_cache(serve, monkeypatch):
    url = serve(2)
    with pytest.raises(UsageError, match=r'data\.kind = "folder" does not read') as caught:
        open_dataset(DataSpec(), 8, root=url)
    assert "--set data.kind=shards" in caught.value.hint
    for options in ({"split": "test"}, {"evaluation": True}):
        with pytest.raises(UsageError, match="are read for training only"):
            opened(url, **options)
    with pytest.raises(UsageError, match="expected an https address"):
        open_index("http://example.org/index.json")
    monkeypatch.setenv("SPHERECTL_CACHE", __file__)
    with pytest.raises(FileError, match="Cannot write"):
        opened(url)


@pytest.mark.parametrize("name", ["index.json", "classes.txt", "000000.tar"])
def test_an_endless_answer_is_a_sentence(monkeypatch, name):
    monkeypatch.setattr(downloader, "MAX_FILE", 1 << 20)
    listing = (LISTING % '{"url": "000000.tar", "nsamples": 2}').encode()

    def say(_number: int, path: bytes) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
        while path.endswith(name.encode()):
            yield bytes(1 << 16)
        yield listing if path.endswith(b"index.json") else b"a\nb\n"

    with speaking(say) as speaker, pytest.raises(SpherectlError, match=r"bytes, which .* may have at most"):
        opened(f"{speaker.url}index.json").gather([0])

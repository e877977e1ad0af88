"""Kept indexes: what is kept comes back; what is damaged, stale or cannot be written costs nothing but time."""

from __future__ import annotations

import os
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from spherectl.data import folders, indexes
from spherectl.data.folders import holds_images, list_images
from spherectl.data.indexes import Index, load_index, save_index
from spherectl.settings import load_settings
from tests.data.bounded import bounded

pytestmark = pytest.mark.fast

INDEX = Index({"names": ["ö", "\udcff"], "n": 3}, {"a": np.arange(6), "b": np.array([b"x", b"yz"])})


def load(key: str) -> Index | None:
    return load_index(key, {"a": np.int64, "b": np.bytes_}, lambda index: index)


def stored() -> list[Path]:
    return sorted((load_settings().cache / "indexes").glob("*"))


def test_what_is_kept_comes_back_under_its_key_and_format_alone(monkeypatch):
    assert load("key") is None
    save_index("key", INDEX)
    found = load("key")
    assert found is not None
    assert (found.facts, found.arrays.keys()) == (INDEX.facts, INDEX.arrays.keys())
    assert all((found.arrays[name] == INDEX.arrays[name]).all() for name in INDEX.arrays)
    assert load_index("key", {"a": np.int32, "b": np.bytes_}, lambda index: index) is None, "of another type"
    assert load_index("key", {"a": np.int64, "b": np.bytes_}, lambda index: index.facts["unknown"]) is None
    (file,) = stored()
    save_index("other", INDEX)
    (other,) = set(stored()) - {file}
    file.write_bytes(other.read_bytes())
    assert load("key") is None
    assert load("other") is not None
    monkeypatch.setattr(indexes, "FORMAT", indexes.FORMAT + 1)
    assert load("other") is None
    monkeypatch.setenv("SPHERECTL_CACHE", str(file / "below"))  # a cache that not even a superuser can write
    save_index("key", INDEX)
    assert load("key") is None


def test_a_damaged_file_is_none_wherever_the_damage_is():
    save_index("key", INDEX)
    (file,) = stored()
    whole = file.read_bytes()
    for size in range(0, len(whole), 37):
        file.write_bytes(whole[:size])
        assert load("key") is None, size
    for at in range(0, len(whole), 11):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        found = load("key")  # a byte that says nothing may be any
        assert found is None or found.facts == INDEX.facts


def test_nothing_is_unpickled(tmp_path):
    save_index("key", INDEX)
    (file,) = stored()

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    np.savez(file.with_suffix(".2.npz"), facts=np.array([Trap()], dtype=object))
    file.with_suffix(".2.npz").rename(file)
    assert load("key") is None
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["promise", "packed"])
def test_an_index_of_other_making_is_none_and_fills_no_memory(packing):
    """An array that promises 8 TiB, and one of 8 MiB in a few bytes."""
    save_index("key", INDEX)
    count = 1 << (40 if packing == zipfile.ZIP_STORED else 20)
    with zipfile.ZipFile(stored()[0], "w", packing) as archive, archive.open("a.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<i8", "fortran_order": False, "shape": (count,)})
        member.write(bytes(0 if packing == zipfile.ZIP_STORED else 8 << 20))
    with bounded(20):
        assert load("key") is None


# Folders


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """Three images in two classes, which count as long unchanged."""
    for name in ("train/cat/1.png", "train/dog/2.png", "train/dog/3.png", "val/dog/4.png"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(indexes, "SETTLED_NS", 0)
    time.sleep(TICK_S)
    return tmp_path / "root"


TICK_S = 0.02  # longer than a file system's clock takes to its next step


@pytest.fixture
def scans(monkeypatch) -> list[Path]:
    """The folders that were looked into."""
    looked: list[Path] = []
    real = os.scandir
    monkeypatch.setattr(folders.os, "scandir", lambda folder: looked.append(Path(folder)) or real(folder))
    return looked


def listed(listing) -> list[str]:
    return [listing.path(i).relative_to(listing.folder).as_posix() for i in range(len(listing.names))]


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_unchanged_folder_is_not_listed_again(root, scans, monkeypatch, split):
    first = list_images(root, split)
    assert len(scans) == len(set(scans)) > 0, "each folder once"
    scans.clear()
    monkeypatch.chdir(root.parent)
    again = list_images(Path("root"), split)  # the same folder by another path
    assert (holds_images(root), scans) == (True, []) if split == "train" else scans == []
    assert listed(again) == listed(first)
    assert torch.equal(again.labels, first.labels)
    assert (again.class_names, again.folder.absolute()) == (first.class_names, first.folder)
    (file,) = stored()
    file.write_bytes(file.read_bytes()[:100])  # damaged, it is made again in silence
    assert listed(list_images(root, split)) == listed(first)


def restored(folder: Path) -> None:
    """A new image under the folder's old times, as an archive is unpacked, or a layer of a container."""
    times = folder.stat().st_atime_ns, folder.stat().st_mtime_ns
    (folder / "9.png").touch()
    os.utime(folder, ns=times)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda root: restored(root / "train/cat"), ["cat/1.png", "cat/9.png", "dog/2.png", "dog/3.png"]),
        (lambda root: (root / "train/dog/2.png").rename(root / "train/cat/2"), ["cat/1.png", "dog/3.png"]),
        (lambda root: (root / "train/dog").rename(root / "train/ape"), ["ape/2.png", "ape/3.png", "cat/1.png"]),
        (lambda root: (root / "train/notes.txt").touch(), ["cat/1.png", "dog/2.png", "dog/3.png"]),
    ],
)
def test_any_change_is_seen(root, change, expected):
    list_images(root)
    time.sleep(TICK_S)
    change(root)
    assert listed(list_images(root)) == expected


def test_a_folder_changed_a_moment_ago_is_not_kept(root, scans, monkeypatch):
    monkeypatch.setattr(indexes, "SETTLED_NS", 2_000_000_000)
    (root / "train/cat/9.png").touch()
    list_images(root)
    assert not stored()
    scans.clear()
    assert len(listed(list_images(root))) == 4
    assert scans

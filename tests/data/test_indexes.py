"""Kept indexes: what is kept comes back; what is damaged, stale or cannot be written costs nothing but time."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from spherectl.data import folders, indexes
from spherectl.data.folders import holds_pictures, list_pictures
from spherectl.data.indexes import Index, is_settled, load_index, save_index
from spherectl.errors import UsageError
from spherectl.settings import load_settings

pytestmark = pytest.mark.fast

INDEX = Index({"names": ["ö", "\udcff"], "n": 3}, {"a": np.arange(6).reshape(2, 3), "b": np.array([b"x", b"yz"])})


def stored() -> list[Path]:
    return sorted((load_settings().cache / "indexes").glob("*"))


def test_what_is_kept_comes_back():
    assert load_index("key") is None
    save_index("key", INDEX)
    found = load_index("key")
    assert found is not None
    assert found.facts == INDEX.facts
    assert found.arrays.keys() == INDEX.arrays.keys()
    assert all((found.arrays[name] == INDEX.arrays[name]).all() for name in INDEX.arrays)
    assert load_index("other") is None


def test_another_key_or_format_under_the_same_name_is_none(monkeypatch):
    save_index("key", INDEX)
    (file,) = stored()
    save_index("other", INDEX)
    (other,) = set(stored()) - {file}
    file.write_bytes(other.read_bytes())
    assert load_index("key") is None
    assert load_index("other") is not None
    monkeypatch.setattr(indexes, "FORMAT", indexes.FORMAT + 1)
    assert load_index("other") is None


def test_a_damaged_file_is_none_wherever_the_damage_is():
    save_index("key", INDEX)
    (file,) = stored()
    whole = file.read_bytes()
    for kept in range(0, len(whole), 37):
        file.write_bytes(whole[:kept])
        assert load_index("key") is None, kept
    for at in range(0, len(whole), 11):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        found = load_index("key")  # a byte that says nothing may be any
        assert found is None or found.facts == INDEX.facts


def test_nothing_is_unpickled(tmp_path):
    save_index("key", INDEX)
    (file,) = stored()
    with pytest.raises(ValueError, match="allow_pickle"):
        save_index("bad", Index({}, {"o": np.array([{}], dtype=object)}))

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    np.savez(file.with_suffix(".2.npz"), facts=np.array([Trap()], dtype=object))
    file.with_suffix(".2.npz").rename(file)
    assert load_index("key") is None
    file.write_bytes(pickle.dumps(Trap()))
    assert load_index("key") is None
    assert not (tmp_path / "sprung").exists()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPHERECTL_CACHE", str(tmp_path / "file" / "below"))  # refuses a superuser too
    save_index("key", INDEX)
    assert load_index("key") is None


def test_what_changed_just_now_may_change_again_within_the_same_tick():
    assert is_settled(0, 2_000_000_001)
    assert not is_settled(0, 2_000_000_000)
    assert not is_settled(10, 0), "a clock of the future"


# Folders


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """Three pictures in two classes, long unchanged."""
    for name in ("train/cat/1.png", "train/dog/2.png", "train/dog/3.png", "val/dog/4.png"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    settle(tmp_path / "root")
    return tmp_path / "root"


def settle(root: Path, at: float = 1e9) -> None:
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        os.utime(folder, (at, at))


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
def test_an_unchanged_folder_is_not_listed_again(root, scans, split):
    first = list_pictures(root, split)
    assert len(scans) == len(set(scans)) > 0, "each folder once"
    scans.clear()
    again = list_pictures(root, split)
    assert scans == []
    assert listed(again) == listed(first)
    assert torch.equal(again.labels, first.labels)
    assert (again.class_names, again.folder) == (first.class_names, first.folder)


def test_the_same_folder_by_another_path_is_the_same(root, scans, monkeypatch):
    list_pictures(root)
    scans.clear()
    monkeypatch.chdir(root.parent)
    again = list_pictures(Path("root"))
    assert scans == []
    assert again.path(0) == Path("root/train/cat/1.png")
    assert holds_pictures(root)
    assert scans == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda root: (root / "train/cat/9.png").touch(), ["cat/1.png", "cat/9.png", "dog/2.png", "dog/3.png"]),
        (lambda root: (root / "train/dog/2.png").unlink(), ["cat/1.png", "dog/3.png"]),
        (lambda root: (root / "train/dog/2.png").rename(root / "train/cat/2"), ["cat/1.png", "dog/3.png"]),
        (lambda root: (root / "train/dog").rename(root / "train/ape"), ["ape/2.png", "ape/3.png", "cat/1.png"]),
        (lambda root: (root / "train/notes.txt").touch(), ["cat/1.png", "dog/2.png", "dog/3.png"]),
    ],
)
def test_any_change_is_seen(root, change, expected):
    list_pictures(root)
    change(root)
    assert listed(list_pictures(root)) == expected


def test_a_root_that_is_no_split_any_more(root):
    list_pictures(root)
    (root / "train").rename(root / "elsewhere")
    with pytest.raises(UsageError, match="No pictures found"):
        list_pictures(root)


def test_a_folder_changed_a_moment_ago_is_not_kept(root, scans):
    (root / "train/cat/9.png").touch()
    list_pictures(root)
    assert not stored()
    scans.clear()
    assert len(listed(list_pictures(root))) == 4
    assert scans


def test_a_damaged_index_is_made_again_in_silence(root, scans):
    first = list_pictures(root)
    (file,) = stored()
    file.write_bytes(file.read_bytes()[:100])
    assert listed(list_pictures(root)) == listed(first)
    scans.clear()
    list_pictures(root)
    assert scans == []

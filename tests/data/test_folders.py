"""Listings of folders built here: order, classes, splits, and one sentence for each wrong layout."""

from __future__ import annotations

import os
from unittest.mock import Mock

import pytest
import torch

from spherectl.data.folders import holds_images, list_images
from spherectl.errors import FileError, UsageError

pytestmark = pytest.mark.fast


@pytest.fixture
def make(tmp_path):
    """Empty files under a root: listing never opens one."""

    def make(*names: str):
        for name in names:
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / "root"

    return make


def listed(listing) -> list[str]:
    return [listing.path(i).relative_to(listing.folder).as_posix() for i in range(len(listing.names))]


@pytest.mark.parametrize(
    ("names", "classes", "images"),
    [
        # Code points: digits, capitals, small letters; the same on every system.
        ("b.png a10.jpg a2.JPEG B.webp f.TIFF .x.png", "", "B.webp a10.jpg a2.JPEG b.png f.TIFF"),
        (
            "dog/1.png cat/9.jfif README.md .git/x.png Ape/1.png Ape/x.txt",
            "Ape cat dog",
            "Ape/1.png cat/9.jfif dog/1.png",
        ),
        ("Käse/müde.png чай/茶.png", "Käse чай", "Käse/müde.png чай/茶.png"),
        ("train/1.png car/1.png", "car train", "car/1.png train/1.png"),  # train may be a class
        ("1.png notes/text.txt", "", "1.png"),
        ("cat/0.png cat/._0.png cat/@eaDir/0.png cat/.t.png ._cat.png", "cat", "cat/0.png"),
        ("cat/1.png __MACOSX/1.png lost+found/1.png @eaDir/1.png", "cat", "cat/1.png"),
    ],
)
def test_images_are_sorted_and_class_folders_numbered_by_name(make, names, classes, images):
    listing = list_images(make(*names.split()))
    assert listing.class_names == tuple(classes.split())
    assert listed(listing) == images.split()
    numbers = [classes.split().index(one.split("/")[0]) if classes else 0 for one in images.split()]
    assert (listing.labels.tolist(), listing.labels.dtype) == (numbers, torch.int64)


def test_symbolic_links_are_followed_and_broken_ones_kept(make, tmp_path):
    root = make("cat/1.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "7.png").touch()
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "0.png").symlink_to(tmp_path / "nowhere.png")
    (root / "loop").symlink_to(root / "loop")  # leads to itself: no folder
    assert listed(list_images(root)) == ["cat/0.png", "cat/1.png", "dog/7.png"]


@pytest.mark.parametrize(
    ("train_name", "test_name"), [("train", "Val"), ("Train", "validation"), ("training", "valid")]
)
def test_splits(make, train_name, test_name):
    root = make(
        *(f"{train_name}/cat/1.JPEG", f"{train_name}/dog/1.png", f"{train_name}/dog/2.png", f"{test_name}/dog/3.png"),
        *("test/dog/4.png", "LICENSE.txt", "devkit/data.bin"),  # of several test folders one is taken
    )
    assert listed(list_images(root)) == ["cat/1.JPEG", "dog/1.png", "dog/2.png"]
    assert list_images(root).folder == root / train_name
    test = list_images(root, "test")
    assert listed(test) == ["dog/3.png"]
    assert test.labels.tolist() == [1], "a class keeps its number where the test split lacks another"
    assert test.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("names", "split", "reason"),
    [
        (["1.png", "cat/2.png"], "train", r"mixes images \(1\.png, \.\.\.\) with class folders \(cat, \.\.\.\)"),
        (["cat/1.png", "dog/notes.txt"], "train", "class folder .*dog holds no images"),
        (["deep/cat/1.png"], "train", r"No images found in .*root: expected \.png \.jpg"),
        (["train/1.png", "training/1.png"], "train", "more than one training folder: train, training"),
        (["train/1.png", "val/1.png", "car/1.png"], "train", r"beside others with images \(car\): it is unclear"),
        (["val/1.png", "test/1.png"], "train", r"has test images \(val, test\) but no train folder"),
        (["train/cat/1.png"], "test", "no test images"),
        (["train/cat/1.png", "test/eel/1.png"], "test", "eel is a class that the training images"),
        (["train/a/1.png", "train/b/2.png", "val/3.png"], "test", "images without class folders, while .*train has 2"),
    ],
)
def test_wrong_layouts_are_one_sentence(make, names, split, reason):
    root = make(*names)
    with pytest.raises(UsageError, match=reason):
        list_images(root, split)


def test_missing_empty_unreadable_and_file(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="there is nothing of that name"):
        list_images(tmp_path / "missing")
    (tmp_path / "file.png").touch()
    with pytest.raises(UsageError, match=r"got the file .*file\.png"):
        list_images(tmp_path / "file.png")
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "1.HEIC").touch()
    with pytest.raises(UsageError, match="No images found") as caught:
        list_images(tmp_path / "phone")
    assert "It holds .HEIC files, which are not read" in caught.value.hint
    monkeypatch.setattr(os, "scandir", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(FileError, match=r"Cannot read the folder .*phone: Permission denied"):
        list_images(tmp_path / "phone")
    assert not holds_images(tmp_path / "phone")


def test_a_data_folder_is_no_set(make):
    root = make("photos/1.png")
    assert holds_images(root)
    make("cifar-10-batches-bin/test_batch.bin")
    assert not holds_images(root)

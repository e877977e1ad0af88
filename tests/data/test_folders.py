"""Listings of folders built here: order, classes, splits, and one sentence for each wrong layout."""

from __future__ import annotations

import os

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


def test_flat_folder_is_sorted_and_unconditional(make):
    root = make(
        "b.png", "a10.jpg", "a2.JPEG", "B.webp", "c.gif", "d.bmp", "e.tif", "f.TIFF", "notes.txt", ".hidden.png"
    )
    listing = list_images(root)
    # Code points: digits, capitals, small letters; the same on every system.
    assert listed(listing) == ["B.webp", "a10.jpg", "a2.JPEG", "b.png", "c.gif", "d.bmp", "e.tif", "f.TIFF"]
    assert listing.class_names == ()
    assert torch.equal(listing.labels, torch.zeros(8, dtype=torch.int64))


def test_class_folders_are_numbered_by_name(make):
    listing = list_images(
        make("dog/2.png", "dog/1.png", "cat/9.png", "README.md", ".git/x.png", "Ape/1.png", "Ape/x.txt")
    )
    assert listed(listing) == ["Ape/1.png", "cat/9.png", "dog/1.png", "dog/2.png"]
    assert listing.class_names == ("Ape", "cat", "dog")
    assert listing.labels.tolist() == [0, 1, 2, 2]
    assert listing.labels.dtype == torch.int64


def test_folders_without_images_beside_flat_images_do_not_matter(make):
    assert listed(list_images(make("1.png", "notes/text.txt"))) == ["1.png"]


def test_names_outside_ascii(make):
    listing = list_images(make("Käse/müde.png", "чай/茶.png"))
    assert listing.class_names == ("Käse", "чай")
    assert listed(listing) == ["Käse/müde.png", "чай/茶.png"]


def test_symbolic_links_are_followed_and_broken_ones_kept(make, tmp_path):
    root = make("cat/1.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "7.png").touch()
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "0.png").symlink_to(tmp_path / "nowhere.png")
    assert listed(list_images(root)) == ["cat/0.png", "cat/1.png", "dog/7.png"]


def test_splits(make):
    root = make(
        "train/cat/1.png", "train/dog/1.png", "train/dog/2.png", "val/dog/3.png", "LICENSE.txt", "devkit/data.bin"
    )
    assert listed(list_images(root)) == ["cat/1.png", "dog/1.png", "dog/2.png"]
    test = list_images(root, "test")
    assert listed(test) == ["dog/3.png"]
    assert test.labels.tolist() == [1], "a class keeps its number where the test split lacks another"
    assert test.class_names == ("cat", "dog")


def test_flat_splits(make):
    root = make("train/1.png", "test/2.png", "test/3.png")
    assert listed(list_images(root)) == ["1.png"]
    assert listed(list_images(root, "test")) == ["2.png", "3.png"]
    assert list_images(root, "test").class_names == ()


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "validation"),
        ("Train", "Test"),
        ("training", "testing"),
        ("train", "valid"),
        ("TRAIN", "dev"),
        ("train", "Eval"),
    ],
)
@pytest.mark.parametrize("name", ["1.png", "cat/1.png"])
def test_words_of_splits_in_any_case(make, train, test, name):
    root = make(f"{train}/{name}", f"{test}/{name}")
    assert listed(list_images(root)) == [name]
    assert list_images(root).folder == root / train
    assert list_images(root, "test").folder == root / test
    assert list_images(root, "test").class_names == (("cat",) if "cat" in name else ())


def test_of_several_test_folders_validation_is_taken(make):
    root = make("train/1.png", "test/1.png", "Val/1.png")
    assert list_images(root, "test").folder == root / "Val"


def test_train_may_be_a_class(make):
    assert list_images(make("train/1.png", "car/1.png", "bus/1.png")).class_names == ("bus", "car", "train")


@pytest.mark.parametrize(
    ("names", "split", "reason"),
    [
        (["1.png", "cat/2.png"], "train", r"mixes images \(1\.png, \.\.\.\) with class folders \(cat, \.\.\.\)"),
        (["cat/1.png", "dog/notes.txt"], "train", "class folder .*dog holds no images"),
        (["notes.txt"], "train", r"No images found in .*root: expected \.png \.jpg"),
        (["deep/cat/1.png"], "train", "No images found"),
        (["train/1.png", "training/1.png"], "train", "more than one training folder: train, training"),
        (["train/1.png", "val/1.png", "car/1.png"], "train", r"beside others with images \(car\): it is unclear"),
        (["val/1.png", "test/1.png"], "train", r"has test images \(val, test\) but no train folder"),
        (["test/cat/1.png"], "train", r"has test images \(test\) but no train folder"),
        (["train/cat/1.png"], "test", "no test images"),
        (["cat/1.png"], "test", "no test images"),
        (["train/cat/1.png", "test/eel/1.png"], "test", "eel is a class that the training images"),
    ],
)
def test_wrong_layouts_are_one_sentence(make, names, split, reason):
    root = make(*names)
    with pytest.raises(UsageError, match=reason) as caught:
        list_images(root, split)
    assert str(root) in caught.value.message
    assert "\n" not in caught.value.message


SYSTEM = ("__MACOSX", "System Volume Information", "lost+found", "@eaDir", "$RECYCLE.BIN", ".thumbnails")


@pytest.mark.parametrize("name", SYSTEM)
def test_folders_of_the_system_are_no_classes(make, name):
    assert list_images(make("cat/1.png", "dog/1.png", f"{name}/1.png")).class_names == ("cat", "dog")
    assert list_images(make("empty/x.png", f"{name}/x.txt")).class_names == ("cat", "dog", "empty")


def test_hidden_images_and_thumbnails_do_not_count(make):
    root = make("cat/0.png", "cat/._0.png", "cat/@eaDir/0.png", "cat/.thumb.png", "._cat.png")
    assert listed(list_images(root)) == ["cat/0.png"]


def test_jfif_counts_and_what_is_not_read_is_named(make):
    assert listed(list_images(make("a/1.jfif"))) == ["a/1.jfif"]
    root = make("b/2.heic", "b/3.HEIC") / "b"
    with pytest.raises(UsageError, match="No images found") as caught:
        list_images(root)
    assert "It holds .HEIC, .heic files, which are not read" in caught.value.hint


def test_a_link_that_leads_to_itself_is_no_folder(make):
    root = make("cat/1.png")
    (root / "loop").symlink_to(root / "loop")
    assert listed(list_images(root)) == ["cat/1.png"]


def test_missing_empty_and_file(tmp_path):
    with pytest.raises(UsageError, match="there is nothing of that name"):
        list_images(tmp_path / "missing")
    with pytest.raises(UsageError, match="No images found"):
        list_images(tmp_path)
    (tmp_path / "file.png").touch()
    with pytest.raises(UsageError, match=r"got the file .*file\.png"):
        list_images(tmp_path / "file.png")


def test_folder_that_cannot_be_read(make, monkeypatch):
    root = make("1.png")

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(FileError, match=r"Cannot read the folder .*root: Permission denied"):
        list_images(root)
    assert not holds_images(root)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["1.png"], True),
        (["cat/1.png", "dog/1.png"], True),
        (["train/cat/1.png", "val/cat/1.png"], True),
        (["train/1.png"], True),
        (["photos/1.png", "cifar-10-batches-bin/test_batch.bin"], False),  # a data folder, not a set
        (["flowers-102/jpg/1.png"], False),
        (["notes.txt"], False),
    ],
)
def test_holds_images(make, names, expected):
    assert holds_images(make(*names)) is expected


def test_holds_images_of_nothing(tmp_path):
    assert not holds_images(tmp_path / "missing")
    assert not holds_images(tmp_path)


# The published layouts of the paper's folder sets


def test_imagenets_layout(make):
    root = make(
        *(f"train/{wnid}/{wnid}_{i}.JPEG" for wnid in ("n01440764", "n01443537") for i in (10026, 2)),
        "val/n01443537/ILSVRC2012_val_00000001.JPEG",
        "ILSVRC2012_devkit_t12.tar.gz",
        "meta.bin",
    )
    train, val = list_images(root), list_images(root, "test")
    assert listed(train)[0] == "n01440764/n01440764_10026.JPEG"
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert (listed(val), val.labels.tolist()) == (["n01443537/ILSVRC2012_val_00000001.JPEG"], [1])
    assert holds_images(root)


def test_imagenets_flat_validation_images_are_a_sentence(make):
    root = make("train/n01440764/1.JPEG", "train/n01443537/2.JPEG", "val/ILSVRC2012_val_00000001.JPEG")
    assert len(list_images(root).names) == 2
    with pytest.raises(
        UsageError, match=r"val has images without class folders, while .*train has 2 class folders"
    ) as caught:
        list_images(root, "test")
    assert "devkit" in caught.value.hint


@pytest.mark.parametrize("held_out", ["val", "test"])  # AFHQ, AFHQ v2
def test_animal_faces_layout(make, held_out):
    animals = ("cat", "dog", "wild")
    root = make(*(f"{split}/{animal}/flickr_{animal}_0001.jpg" for split in ("train", held_out) for animal in animals))
    for split in ("train", "test"):
        found = list_images(root, split)
        assert found.class_names == ("cat", "dog", "wild")
        assert found.labels.tolist() == [0, 1, 2]

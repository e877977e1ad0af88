"""ImageSet.identity: the same wherever a set lies, another whenever what is trained on is another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from spherectl.data import decoded as module
from spherectl.data.datasets import open_dataset
from spherectl.recipe import DataSpec

pytestmark = pytest.mark.fast

EXCERPT = Path(__file__).parent / "fashion-excerpt"
FOLDER = DataSpec(kind="folder")


def identity(root: Path, data: DataSpec = FOLDER):
    return open_dataset(data, 8, root=root).identity()


@pytest.fixture
def root(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "set" / name)
    return tmp_path / "set"


def test_a_folder_is_the_same_wherever_it_lies(root, tmp_path, monkeypatch):
    before = identity(root)
    assert (before["images"], before["class_names"]) == (3, ["a", "b"])
    (tmp_path / "link").symlink_to(root)
    assert identity(tmp_path / "link") == before
    shutil.copytree(root, tmp_path / "copy")
    assert identity(tmp_path / "copy") == before
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    assert identity(Path("../set")) == before


CHANGES = {
    "added": lambda root: shutil.copy(root / "a/1.png", root / "a/3.png"),
    "removed": lambda root: (root / "a/2.png").unlink(),
    "renamed": lambda root: (root / "a").rename(root / "z"),
    "replaced": lambda root: Image.effect_noise((8, 8), 99).save(root / "a/1.png"),
    "recoloured": lambda root: Image.new("RGB", (8, 8), "blue").save(root / "a/1.bmp"),  # of the same size
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_with_other_images_is_another(root, change):
    Image.new("RGB", (8, 8), "red").save(root / "a/1.bmp")
    before = identity(root)
    CHANGES[change](root)
    assert identity(root)["listing"] != before["listing"]


def test_of_very_many_files_some_are_looked_at(root, monkeypatch):
    monkeypatch.setattr(module, "MAX_SIZED", 2)
    monkeypatch.setattr(module, "MAX_SAMPLED", 2)
    before = identity(root)
    Image.effect_noise((8, 8), 99).save(root / "a/2.png")  # the second of three: not one of two looked at
    assert identity(root) == before
    Image.effect_noise((8, 8), 99).save(root / "b/1.png")
    assert identity(root) != before


def test_a_set_in_memory_is_told_by_its_pixels(tmp_path):
    data = DataSpec(kind="fashion-mnist", fit="pad", flip=False, channels="grey")
    train, test = (open_dataset(data, 32, root=EXCERPT, split=split).identity() for split in ("train", "test"))
    assert train != test
    shutil.copytree(EXCERPT, tmp_path / "copy")
    assert identity(tmp_path / "copy", data)["listing"] == train["listing"]


def test_shards_are_told_by_names_and_places(tmp_path, write_tar, image_bytes):
    for place, names in (("x", ("1.png", "2.png")), ("y", ("1.png", "2.png")), ("z", ("1.png", "3.png"))):
        write_tar(tmp_path / place / "0.tar", dict.fromkeys(names, image_bytes(1)))
    first, same, other = (identity(tmp_path / place, DataSpec(kind="shards")) for place in "xyz")
    assert first == same
    assert first["listing"] != other["listing"]

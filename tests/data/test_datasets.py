"""open_dataset: which place it takes, what the images become, and its sentences."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spherectl.data.datasets import FolderImages, MemoryImages, open_dataset
from spherectl.data.listings import Listing
from spherectl.data.sets import fashion_mnist, folder, imagenet
from spherectl.data.transforms import adm_crop, as_tensor, fit_crop
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.recipe import DataSpec

pytestmark = pytest.mark.fast

EXCERPT = Path(__file__).parent / "fashion-excerpt"
FASHION = DataSpec(kind="fashion-mnist", fit="pad", flip=False, channels="grey")


def write_image(path: Path, number: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), np.uint8))
    image.save(path)
    return image


def test_fashion_mnist_is_padded_grey_and_in_memory():
    images = open_dataset(FASHION, 32, root=EXCERPT)
    assert isinstance(images, MemoryImages)
    assert (images.name, images.root, images.licence) == ("fashion-mnist", EXCERPT, "MIT")
    assert (len(images), images.in_memory, images.class_names[9]) == (300, True, "ankle-boot")
    raw, labels = fashion_mnist.read(EXCERPT, "train")
    assert images.pixels.shape == (300, 28, 28), "held as published"
    batch = images.gather(torch.tensor([299, 0, 7, 0]))
    expected = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    expected[:, :, 2:30, 2:30] = raw[[299, 0, 7, 0]][:, None]
    assert torch.equal(batch, expected)
    assert torch.equal(images[7], expected[2])
    assert torch.equal(images.labels, labels)
    batch.fill_(7)
    assert not (images[299] == 7).all(), "gathered images are the caller's own"
    cropped = open_dataset(DataSpec(kind="fashion-mnist"), 64, root=EXCERPT).gather([5, 250])
    expected = [fit_crop(Image.fromarray(raw[i].numpy()).convert("RGB"), 64) for i in (5, 250)]
    assert torch.equal(cropped, torch.stack(expected)), "as other images are"


def test_class_folders(tmp_path):
    made = [write_image(tmp_path / "pets" / name, i) for i, name in enumerate(["cat/1.png", "dog/1.png", "dog/2.png"])]
    images = open_dataset(DataSpec(), 32, root=tmp_path / "pets")
    assert isinstance(images, FolderImages)
    assert (images.name, images.class_names, images.in_memory) == ("pets", ("cat", "dog"), False)
    assert images.labels.tolist() == [0, 1, 1]
    assert torch.equal(images.gather([2, 0]), torch.stack([fit_crop(made[2], 32), fit_crop(made[0], 32)]))
    with pytest.raises(UsageError, match=r"1\.png: An image of 48 x 40 pixels does not fit 32 x 32"):
        open_dataset(DataSpec(fit="pad"), 32, root=tmp_path / "pets")[0]
    (tmp_path / "pets" / "cat" / "1.png").write_bytes(b"no image")
    assert images[1].shape == (3, 32, 32)
    with pytest.raises(FileError, match=r"Cannot read the image .*1\.png"):
        images.gather([1, 0])


def test_evaluation_uses_the_adm_crop_where_training_crops_and_grey_is_as_pillow_has_it(tmp_path):
    image = write_image(tmp_path / "1.png", 0, size=(100, 75))
    assert torch.equal(open_dataset(DataSpec(), 32, root=tmp_path, evaluation=True)[0], adm_crop(image, 32))
    padded = open_dataset(DataSpec(fit="pad"), 128, root=tmp_path, evaluation=True)[0]
    assert torch.equal(padded[:, 26:101, 14:114], as_tensor(image))
    grey = open_dataset(DataSpec(fit="pad", channels="grey"), 128, root=tmp_path)[0]
    assert torch.equal(grey[:, 26:101, 14:114], as_tensor(image.convert("L").convert("RGB")))


def test_folder_of_the_recipe_and_home(tmp_path, monkeypatch):
    write_image(tmp_path / "mine" / "1.png", 0)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert open_dataset(DataSpec(root="~/mine"), 32).root == tmp_path / "mine"
    write_image(tmp_path / "other" / "1.png", 0)
    assert open_dataset(DataSpec(root="~/mine"), 32, root=tmp_path / "other").root == tmp_path / "other"


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names there are Unicode")
def test_places_and_files_of_other_encodings(tmp_path):
    """Latin-1, as on an old disk: files are read; classes and the recipe's place, which are texts, are refused."""
    old = tmp_path / os.fsdecode("caf\u00e9".encode("latin1"))
    write_image(tmp_path / "named" / os.fsdecode(b"\xe9.png"), 0)
    images = open_dataset(DataSpec(), 32, root=tmp_path / "named")
    assert images.gather([0]).shape == (1, 3, 32, 32)
    write_image(old / "1.png", 0)
    with pytest.raises(FileError, match=r"The name of .*caf\\xe9 is not UTF-8, so that no recipe"):
        _ = open_dataset(DataSpec(), 32, root=old).origin
    (tmp_path / "new").symlink_to(old)
    assert open_dataset(DataSpec(), 32, root=tmp_path / "new").origin == str(tmp_path / "new")
    old.rename(tmp_path / "named" / old.name)
    (tmp_path / "named" / os.fsdecode(b"\xe9.png")).unlink()
    with pytest.raises(FileError, match=r"class 0: 'caf\\\\?.*e9' is not UTF-8"):
        open_dataset(DataSpec(), 32, root=tmp_path / "named")


@pytest.mark.parametrize("kind", ["folder", "imagenet"])
@pytest.mark.parametrize("below", ["{kind}", "{kind}/train", "."])
def test_settings_folder_or_its_subfolder(data_folder, kind, below):
    place = data_folder / below.format(kind=kind)
    write_image(place / "a" / "1.png", 0)
    write_image(place / "b" / "1.png", 0)
    images = open_dataset(DataSpec(kind=kind), 32)
    assert images.class_names == ("a", "b")
    assert images.root == (data_folder / kind if "{kind}" in below else data_folder)
    assert images.name == ("data" if kind == "folder" and "{kind}" not in below else kind)


def test_no_images_anywhere_is_one_sentence_with_all_ways_out(data_folder):
    words = rf"{data_folder / 'imagenet'}.*--data PATH.*--smoke"
    with pytest.raises(UsageError, match=words) as caught:
        open_dataset(DataSpec(kind="imagenet"), 32)
    assert caught.value.message.count(". ") == 0


def test_imagenets_folders_get_their_words(monkeypatch):
    # The first, last and 207th wnid of ILSVRC-2012 in sorted order; the rest is filled up between them.
    wnids = ["n01440764", *(f"n0150{i:04d}" for i in range(206)), "n02099601"]
    wnids += [*(f"n03{i:06d}" for i in range(791)), "n15075141"]
    listing = Listing(Path("x"), np.array([b"1.png"]), torch.zeros(1), tuple(wnids))
    monkeypatch.setattr("spherectl.data.folders.list_images", lambda *_: listing)
    names = imagenet.read(Path("x"), "train", None).class_names
    assert (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")
    assert folder.read(Path("x"), "train", None).class_names == tuple(wnids)


def test_published_sets_in_the_data_folder_and_the_system(data_folder, tmp_path):
    (tmp_path / "system").mkdir()
    (tmp_path / "system" / "fashion-mnist").symlink_to(EXCERPT)
    assert open_dataset(FASHION, 32).root == tmp_path / "system" / "fashion-mnist"
    (data_folder / "FashionMNIST").mkdir()
    (data_folder / "FashionMNIST" / "raw").symlink_to(EXCERPT)
    assert open_dataset(FASHION, 32).root == data_folder / "FashionMNIST" / "raw"
    (data_folder / "fashion-mnist").symlink_to(EXCERPT)
    assert open_dataset(FASHION, 32).root == data_folder / "fashion-mnist"


@pytest.mark.parametrize("kind", ["fashion-mnist", "cifar10", "flowers102", "emoji"])
def test_missing_published_set(data_folder, monkeypatch, kind):
    monkeypatch.setenv("SPHERECTL_OFFLINE", "true")
    for where in ({"download": False}, {"root": data_folder}):  # a given folder is not replaced by another place
        with pytest.raises(UsageError, match=f"No {kind} in {data_folder}: expected "):
            open_dataset(DataSpec(kind=kind), 32, **where)
    with pytest.raises(SpherectlError, match=f"is not in {data_folder}, and offline mode forbids fetching it"):
        open_dataset(DataSpec(kind=kind), 32)

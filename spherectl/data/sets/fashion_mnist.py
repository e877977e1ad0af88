"""Fashion-MNIST: 28 px grey garments of Zalando's, in idx files, which are held in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spherectl.data.sets import DatasetRecord, Download, Say
from spherectl.errors import FileError
from spherectl.files import is_there

if TYPE_CHECKING:
    from spherectl.data.image_set import Pixels
    from spherectl.data.names import Split

_PREFIX = {"train": "train", "test": "t10k"}


def find(root: Path) -> Path | None:
    """The folder at or below `root` with the idx files (as published, or as torchvision lays them)."""
    for folder in (root, root / "FashionMNIST" / "raw"):
        if _file(folder, "train-images-idx3-ubyte") and _file(folder, "train-labels-idx1-ubyte"):
            return folder
    return None


def read(folder: Path, split: Split, _say: Say | None = None) -> Pixels:
    """Images uint8 (n, 28, 28) and labels int64 (n,).

    Raises:
        FileError: a file is missing or damaged, or the two do not belong together.
    """
    import torch

    from spherectl.data.idx import read_idx
    from spherectl.data.image_set import Pixels, check_labels

    names = (f"{_PREFIX[split]}-images-idx3-ubyte", f"{_PREFIX[split]}-labels-idx1-ubyte")
    images_path, labels_path = (_file(folder, name) or folder / f"{name}.gz" for name in names)
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.shape[1:] != (28, 28) or not len(images):
        raise FileError(f"{images_path}: expected images of 28 x 28 bytes, got an array of shape {images.shape}.")
    if labels.shape != (len(images),):
        raise FileError(f"{labels_path}: expected {len(images)} labels, one an image, got shape {labels.shape}.")
    check_labels(labels, len(RECORD.class_names), labels_path)
    return Pixels(torch.from_numpy(images), torch.from_numpy(labels).long())


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if is_there(path)), None)


def _fetch(into: Path) -> None:
    from torchvision.datasets import FashionMNIST

    from spherectl.data.download import bring

    for name, md5 in FashionMNIST.resources:
        bring(f"{FashionMNIST.mirrors[0]}{name}", md5, into / "FashionMNIST" / "raw")
    FashionMNIST(into, download=True)


RECORD = DatasetRecord(
    name="fashion-mnist",
    place="the set's own files",
    licence="MIT",
    class_names=(
        *("t-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle-boot"),
    ),
    train_images=60_000,
    image_px="28",
    channels="grey",
    find=find,
    expected="train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the two t10k files",
    read=read,
    download=Download(
        title="Fashion-MNIST",
        folder="FashionMNIST",
        site="github.com/zalandoresearch/fashion-mnist",
        megabytes=31,
        fetch=_fetch,
    ),
)

"""Data sets: `open_dataset` turns the [data] table of a recipe into a set of pictures of the model's size.

Small published sets are held in memory as they were published and fitted when gathered; folders are decoded on access.
Letters: n pictures, B batch, S image size.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypedDict

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from spherectl.data import formats
from spherectl.data.decode import load_image
from spherectl.data.download import Fetched, fetch_set
from spherectl.data.folders import Listing, holds_pictures, list_pictures, pack_names
from spherectl.data.formats import Split
from spherectl.data.transforms import adm_crop, fit_crop, fit_pad, pad_to, to_grey
from spherectl.errors import FileError, UsageError
from spherectl.fetch import file_hash
from spherectl.recipe import DataKind, DataSpec

# Where the system keeps sets for everybody on the machine.
SYSTEM_DATA = Path("/usr/share/datasets")

# What each set's makers say about its use.
LICENCES: dict[DataKind, str] = {
    "fashion-mnist": "MIT",
    "cifar10": "unknown (none stated by its authors)",
    "flowers102": "unknown (none stated by its authors)",
    "animal-faces": "CC BY-NC 4.0 (AFHQ)",
    "imagenet": "non-commercial research and education (ImageNet terms of access)",
    "folder": "unknown",
}


# How a decoded picture becomes uint8 (3, S, S). "adm" is the evaluation's crop.
_FITS = {"crop": fit_crop, "pad": fit_pad, "adm": adm_crop}


@dataclass(eq=False, repr=False, kw_only=True)
class PictureSet(Dataset[Tensor], ABC):
    """Pictures of one size with labels, by number.

    Attributes:
        name: what the set is called; for a folder of people's own pictures the folder's name.
        root: the folder that it is read from.
        class_names: one a class; empty where there are no classes.
        labels: (n,) int64; zeros where there are no classes.
        licence: what its makers say about its use.
        image_size: S.
        fit: how a picture is brought to that size.
        grey: whether colours are replaced by their luminance, in three equal channels.
        in_memory: whether gathering needs no decoding.
    """

    name: str
    root: Path
    class_names: tuple[str, ...]
    labels: Tensor
    licence: str
    image_size: int
    fit: Literal["crop", "pad", "adm"] = "crop"
    grey: bool = False
    in_memory: ClassVar[bool]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Tensor:
        """Picture `index` as uint8 (3, S, S)."""
        return self.gather([index])[0]

    def gather(self, indices: Tensor | Sequence[int]) -> Tensor:
        """The pictures of those numbers, in that order: uint8 (B, 3, S, S).

        Raises:
            IndexError: a number is not below n.
            FileError: a file cannot be read as a picture.
            UsageError: a picture is too large for the fit "pad".
        """
        pictures = self._gather(torch.as_tensor(indices, dtype=torch.int64))  # (B, 3, S, S)
        return to_grey(pictures) if self.grey else pictures

    def fingerprint(self) -> str:
        """SHA-256 over what `gather` depends on: contents of the pictures in their order, size, fit and colours.

        Raises:
            FileError: a file cannot be read.
        """
        digest = hashlib.sha256(f"{self.image_size} {self.fit} {self.grey} {len(self)}\n".encode())
        for content in self._contents():
            digest.update(content)
        return digest.hexdigest()

    @abstractmethod
    def _gather(self, indices: Tensor) -> Tensor:
        """As `gather`, in the picture's own colours."""

    @abstractmethod
    def _contents(self) -> Iterator[bytes]:
        """What tells the pictures from others, in their order."""


@dataclass(eq=False, repr=False, kw_only=True)
class MemoryPictures(PictureSet):
    """Pictures held as one array `pixels`: uint8 (n, H, W) grey or (n, 3, H, W)."""

    pixels: Tensor
    in_memory: ClassVar[bool] = True

    def _contents(self) -> Iterator[bytes]:
        yield f"{tuple(self.pixels.shape)}".encode()
        yield self.pixels.contiguous().numpy().tobytes()

    def _gather(self, indices: Tensor) -> Tensor:
        pixels = self.pixels[indices]  # (B, H, W) or (B, 3, H, W)
        if pixels.ndim == 3:
            pixels = pixels[:, None].expand(-1, 3, -1, -1)  # (B, 3, H, W)
        if self.fit == "pad":
            return pad_to(pixels, self.image_size).contiguous()
        if pixels.shape[-2:] == (self.image_size, self.image_size):
            return pixels.contiguous()
        pictures = [Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()) for picture in pixels]
        return torch.stack([_FITS[self.fit](picture, self.image_size) for picture in pictures])


@dataclass(eq=False, repr=False, kw_only=True)
class FolderPictures(PictureSet):
    """Pictures decoded from the files of `listing` on access; nothing is cached."""

    listing: Listing
    in_memory: ClassVar[bool] = False

    def _contents(self) -> Iterator[bytes]:
        for index in range(len(self)):
            try:
                yield bytes.fromhex(file_hash(self.listing.path(index)))
            except OSError as error:
                raise FileError(f"Cannot read {self.listing.path(index)}: {error.strerror or error}.") from None

    def _gather(self, indices: Tensor) -> Tensor:
        return torch.stack([self._read(int(index)) for index in indices])

    def _read(self, index: int) -> Tensor:
        path = self.listing.path(index)
        picture = load_image(path)
        try:
            return _FITS[self.fit](picture, self.image_size)
        except UsageError as error:
            raise UsageError(f"{path}: {error.message}", error.hint) from None


def open_dataset(
    data: DataSpec,
    image_size: int,
    *,
    root: Path | None = None,
    split: Split = "train",
    evaluation: bool = False,
    download: bool = True,
    progress: Callable[[str], None] | None = None,
) -> PictureSet:
    """Open the set that a recipe asks for.

    The place is `root` (what --data gave), else data.root, else the settings' data folder (the set's own sub-folder, or
    the data folder itself where it is such a set), else where the system keeps sets; a published small set that is in
    none of them is fetched into the settings' data folder.

    Args:
        data: the recipe's [data] table.
        image_size: side of the model's images, in pixels.
        root: overrides data.root.
        split: "train", or "test" for pictures held out from it. Flowers-102 trains on all pictures, as in the paper.
        evaluation: crop as evaluation and editing do (`adm_crop`), where the recipe crops.
        download: whether a missing set may be fetched.
        progress: called with a sentence before a download.

    Raises:
        UsageError: the place is missing, empty, or of another layout than the kind of set has.
        FileError: a file is damaged, or a folder cannot be read or written.
        SpherectlError: a download failed, or a package for the set is missing.
    """
    given = root if root is not None else data.root
    # os.path, because Path.expanduser raises for ~name where there is no such user; here that is a missing folder.
    place = Path(os.path.expanduser(given)) if given is not None else None  # noqa: PTH111
    fit: Literal["crop", "pad", "adm"] = "adm" if evaluation and data.fit == "crop" else data.fit
    common = _Common(licence=LICENCES[data.kind], image_size=image_size, fit=fit, grey=data.channels == "grey")
    match data.kind:
        case "folder" | "animal-faces" | "imagenet":
            return _open_folder(data.kind, place, split, common)
        case "fashion-mnist" | "cifar10" | "flowers102":
            return _open_published(data.kind, _find_published(data.kind, place, download, progress), split, common)


class _Common(TypedDict):
    """What every kind of set is told alike."""

    licence: str
    image_size: int
    fit: Literal["crop", "pad", "adm"]
    grey: bool


def _open_published(kind: Fetched, folder: Path, split: Split, common: _Common) -> PictureSet:
    if kind == "flowers102":
        from torchvision.datasets import Flowers102

        names, labels = formats.read_flowers102(folder, split)
        listing = Listing(folder, pack_names(names), labels, tuple(Flowers102.classes))
        return FolderPictures(
            name=kind, root=folder, class_names=listing.class_names, labels=labels, listing=listing, **common
        )
    read, class_names = {
        "fashion-mnist": (formats.read_fashion_mnist, formats.FASHION_MNIST_CLASSES),
        "cifar10": (formats.read_cifar10, formats.CIFAR10_CLASSES),
    }[kind]
    pixels, labels = read(folder, split)
    return MemoryPictures(name=kind, root=folder, class_names=class_names, labels=labels, pixels=pixels, **common)


_FIND: dict[Fetched, Callable[[Path], Path | None]] = {
    "fashion-mnist": formats.find_fashion_mnist,
    "cifar10": formats.find_cifar10,
    "flowers102": formats.find_flowers102,
}
_EXPECTED: dict[Fetched, str] = {
    "fashion-mnist": "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the two t10k files",
    "cifar10": "data_batch_1.bin ... data_batch_5.bin and test_batch.bin (binary version: nothing is unpickled)",
    "flowers102": "jpg/, imagelabels.mat and setid.mat",
}


def _find_published(kind: Fetched, place: Path | None, download: bool, progress: Callable[[str], None] | None) -> Path:
    """The folder that holds the set's files; fetched if need be."""
    find = _FIND[kind]
    if place is not None:
        if found := find(place):
            return found
        raise UsageError(
            f"No {kind} in {place}: expected {_EXPECTED[kind]}.",
            "For a folder of other pictures train the recipe folder32 or folder256.",
        )
    from spherectl.settings import load_settings

    settings = load_settings()
    for candidate in (settings.data / kind, settings.data, SYSTEM_DATA / kind):
        if found := find(candidate):
            return found
    if not download:
        raise UsageError(
            f"No {kind} in {settings.data}: expected {_EXPECTED[kind]}.", "Give its folder with --data PATH."
        )
    return fetch_set(kind, settings.data, offline=settings.offline, progress=progress)


def _open_folder(kind: DataKind, place: Path | None, split: Split, common: _Common) -> PictureSet:
    root = place if place is not None else _default_folder(kind)
    listing = list_pictures(root, split)
    names = _imagenet_names(listing.class_names) if kind == "imagenet" else listing.class_names
    name = root.resolve().name if kind == "folder" else kind
    return FolderPictures(name=name, root=root, class_names=names, labels=listing.labels, listing=listing, **common)


def _default_folder(kind: DataKind) -> Path:
    """The folder to read where none was given: the set's own sub-folder of the data folder, or that folder itself."""
    from spherectl.settings import load_settings

    data = load_settings().data
    for candidate in (data / kind, data):
        if holds_pictures(candidate):
            return candidate
    wanted = "pictures" if kind == "folder" else f"the pictures of {kind}"
    raise UsageError(
        f"There is nothing to train on yet: put {wanted}, one folder a class, into {data / kind} or name another place "
        "with --data PATH (add --smoke to try three steps first)."
    )


def _imagenet_names(folders: tuple[str, ...]) -> tuple[str, ...]:
    """ImageNet's words for its 1000 folders (n02099601: golden retriever); other class folders keep their names."""
    if (len(folders), folders[:1], folders[-1:]) != (1000, ("n01440764",), ("n15075141",)):
        return folders
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])

"""Data sets: `open_dataset` turns the [data] table of a recipe into a set of images of the model's size.

Small published sets are held in memory as they were published and fitted when gathered; folders, lists and shards are
decoded on access.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import torch

from spherectl.classes import known_class_names
from spherectl.data import formats
from spherectl.data.download import Fetched, fetch_set
from spherectl.data.emoji import find_emoji
from spherectl.data.folders import Listing, holds_images, list_images
from spherectl.data.image_set import Fit, FolderImages, ImageSet, MemoryImages, ShardImages
from spherectl.data.lists import find_list, read_lists
from spherectl.data.names import Split, pack_names, split_of
from spherectl.data.remote import is_url, open_index
from spherectl.data.shards import open_shards
from spherectl.data.streamed import RemoteImages
from spherectl.errors import FileError, UsageError
from spherectl.files import expanded, is_folder
from spherectl.recipe import DataKind, DataSpec
from spherectl.shown import quoted, shortened

# A set's classes are offered here too, beside what opens it.
__all__ = ["LICENCES", "FolderImages", "ImageSet", "MemoryImages", "open_dataset"]

# Where the system keeps sets for everybody on the machine.
SYSTEM_DATA = Path("/usr/share/datasets")

# What each set's makers say about its use.
LICENCES: dict[DataKind, str] = {
    "fashion-mnist": "MIT",
    "emoji": "Apache-2.0 (Noto Emoji) and CC BY 4.0 (Twemoji)",
    "cifar10": "unknown (none stated by its authors)",
    "flowers102": "unknown (none stated by its authors)",
    "animal-faces": "CC BY-NC 4.0 (AFHQ)",
    "imagenet": "non-commercial research and education (ImageNet terms of access)",
    "folder": "unknown",
    "jsonl": "unknown",
    "shards": "unknown",
}


# What a recipe's fit is where nothing is trained.
_EVALUATION: dict[str, Fit] = {"crop": "adm", "pad": "pad or adm"}


def open_dataset(
    data: DataSpec,
    image_size: int,
    *,
    root: str | Path | None = None,
    split: Split = "train",
    evaluation: bool = False,
    download: bool = True,
    progress: Callable[[str], None] | None = None,
) -> ImageSet:
    """Open the set that a recipe asks for.

    The place is `root` (what --data gave), else data.root, else the settings' data folder (the set's own sub-folder, or
    the data folder itself where it is such a set), else where the system keeps sets; a published small set that is in
    none of them is fetched into the settings' data folder.

    Args:
        data: the recipe's [data] table.
        image_size: side of the model's images, in pixels.
        root: overrides data.root; for shards also a pattern, or the https address of an index.
        split: "train", or "test" for images held out from it. Flowers-102 trains on all images, as in the paper.
        evaluation: fit as evaluation and editing do: `adm_crop`, where the recipe crops or an image is too large for
            the recipe to pad.
        download: whether a missing set may be fetched.
        progress: called with a sentence before a download, and before shards are indexed.

    Raises:
        UsageError: the place is missing, empty, or of another layout than the kind of set has.
        FileError: a file is damaged, or a folder cannot be read or written.
        SpherectlError: a download failed, or a package for the set is missing.
    """
    given = str(root) if root is not None else data.root
    place = _place(data.kind, given) if given is not None and not is_url(given) else None
    fit: Fit = _EVALUATION.get(data.fit, data.fit) if evaluation else data.fit
    common = _Common(licence=LICENCES[data.kind], image_size=image_size, fit=fit, grey=data.channels == "grey")
    if given is not None and is_url(given):
        return _open_remote(data.kind, given, split, evaluation, common)
    match data.kind:
        case "folder" | "animal-faces" | "imagenet":
            return _open_folder(data.kind, place, split, common)
        case "fashion-mnist" | "emoji" | "cifar10" | "flowers102":
            return _open_published(data.kind, _find_published(data.kind, place, download, progress), split, common)
        case "jsonl":
            place = _given(data.kind, place, "a list of images")
            listing = read_lists(place, split)
            file = find_list(place, "train").resolve()
            name = file.parent.name if split_of(file.stem) else file.stem
            return _listed(name, place, listing, listing.class_names, common)
        case "shards":
            place = _given(data.kind, place, "a folder or pattern of tars, or the https address of an index")
            index = open_shards(place, split, progress)
            return ShardImages(
                name=place.resolve().name if is_folder(place) else place.resolve().parent.name,
                root=place,
                class_names=index.class_names,
                labels=index.labels,
                index=index,
                **common,
            )


def _place(kind: DataKind, given: str) -> Path:
    """A place on this machine that may be looked at.

    Raises:
        UsageError: it is empty, no file can have this name, or there is no such user.
        FileError: it may not be looked at.
    """
    if not given:
        raise UsageError("The place of the data is empty.", "Write . for the folder you are in.")
    place = expanded(given)
    try:
        if not (kind == "shards" and "{" in given):  # the shards of a pattern are looked at one by one
            place.stat()
    except (FileNotFoundError, NotADirectoryError):  # told by whoever knows what was expected there
        pass
    except ValueError:
        raise UsageError(f"Expected a place of data, got {quoted(given)}: no file can have this name.") from None
    except OSError as error:
        raise FileError(f"Cannot read {shortened(given)}: {error.strerror or error}.") from None
    return place


class _Common(TypedDict):
    """What every kind of set is told alike."""

    licence: str
    image_size: int
    fit: Fit
    grey: bool


def _given(kind: DataKind, place: Path | None, what: str) -> Path:
    if place is None:
        raise UsageError(f'data.kind = "{kind}" needs a place: {what}, as --data or data.root.')
    return place


def _listed(name: str, root: Path, listing: Listing, class_names: tuple[str, ...], common: _Common) -> FolderImages:
    return FolderImages(name=name, root=root, class_names=class_names, labels=listing.labels, listing=listing, **common)


def _open_remote(kind: DataKind, url: str, split: Split, evaluation: bool, common: _Common) -> RemoteImages:
    if kind != "shards":
        raise UsageError(
            f'{url} is an address, which data.kind = "{kind}" does not read.',
            "Tar shards are read from an address: --set data.kind=shards.",
        )
    if evaluation or split == "test":
        raise UsageError(
            f"Shards at {url} are read for training only.",
            "Fetch them into a folder and give that with --data FOLDER.",
        )
    index = open_index(url)
    return RemoteImages(
        name=_folder_name(url) or kind,
        root=index.folder,
        class_names=index.class_names,
        labels=torch.full((sum(index.counts),), -1 if index.class_names else 0),
        url=url,
        index=index,
        **common,
    )


def _folder_name(url: str) -> str:
    """The last folder in an address; never its host, since models carry the name."""
    return urllib.parse.urlsplit(urllib.parse.urljoin(url, ".")).path.rstrip("/").rpartition("/")[2]


def _open_published(kind: Fetched, folder: Path, split: Split, common: _Common) -> ImageSet:
    if kind == "emoji":
        listing = list_images(folder, split)
        return _listed(kind, folder, listing, listing.class_names, common)
    if kind == "flowers102":
        names, labels = formats.read_flowers102(folder, split)
        listing = Listing(folder, pack_names(names), labels, known_class_names("flowers102"))
        return _listed(kind, folder, listing, listing.class_names, common)
    read, class_names = {
        "fashion-mnist": (formats.read_fashion_mnist, formats.FASHION_MNIST_CLASSES),
        "cifar10": (formats.read_cifar10, formats.CIFAR10_CLASSES),
    }[kind]
    pixels, labels = read(folder, split)
    return MemoryImages(name=kind, root=folder, class_names=class_names, labels=labels, pixels=pixels, **common)


_FIND: dict[Fetched, Callable[[Path], Path | None]] = {
    "fashion-mnist": formats.find_fashion_mnist,
    "emoji": find_emoji,
    "cifar10": formats.find_cifar10,
    "flowers102": formats.find_flowers102,
}
_EXPECTED: dict[Fetched, str] = {
    "fashion-mnist": "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the two t10k files",
    "emoji": "train/ and test/ with a folder for each of Unicode's groups",
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
            "For a folder of other images train the recipe folder32 or folder256.",
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


def _open_folder(kind: DataKind, place: Path | None, split: Split, common: _Common) -> ImageSet:
    root = place if place is not None else _default_folder(kind)
    listing = list_images(root, split)
    names = _imagenet_names(listing.class_names) if kind == "imagenet" else listing.class_names
    return _listed(root.resolve().name if kind == "folder" else kind, root, listing, names, common)


def _default_folder(kind: DataKind) -> Path:
    """The folder to read where none was given: the set's own sub-folder of the data folder, or that folder itself."""
    from spherectl.settings import load_settings

    data = load_settings().data
    for candidate in (data / kind, data):
        if holds_images(candidate):
            return candidate
    wanted = "images" if kind == "folder" else f"the images of {kind}"
    raise UsageError(
        f"There is nothing to train on yet: put {wanted}, one folder a class, into {data / kind} or name another place "
        "with --data PATH (add --smoke to try three steps first)."
    )


def _imagenet_names(folders: tuple[str, ...]) -> tuple[str, ...]:
    """ImageNet's words for its 1000 folders (n02099601: golden retriever); other class folders keep their names."""
    if (len(folders), folders[:1], folders[-1:]) != (1000, ("n01440764",), ("n15075141",)):
        return folders
    return known_class_names("imagenet")

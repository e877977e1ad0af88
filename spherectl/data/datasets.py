"""Data sets: `open_dataset` turns the [data] table of a recipe into a set of images of the model's size.

Small published sets are held in memory as they were published and fitted when gathered; folders, lists and shards are
decoded on access. What is known of each set is its record in `spherectl.data.sets`.
"""

from __future__ import annotations

import urllib.parse
from pathlib import Path
from typing import TypedDict

import torch

from spherectl.data.decoded import FolderImages, ShardImages
from spherectl.data.download import fetch_set
from spherectl.data.image_set import Fit, ImageSet, MemoryImages, Pixels
from spherectl.data.names import Split
from spherectl.data.remote import is_url, open_index
from spherectl.data.sets import DatasetRecord, Say, find_record
from spherectl.data.shards import ShardIndex
from spherectl.data.streamed import RemoteImages
from spherectl.errors import FileError, UsageError
from spherectl.files import expanded
from spherectl.recipe import DataSpec
from spherectl.settings import Settings, load_settings
from spherectl.shown import quoted, shortened

# A set's classes are offered here too, beside what opens it.
__all__ = ["FolderImages", "ImageSet", "MemoryImages", "find_set", "open_dataset"]

# Where the system keeps sets for everybody on the machine.
SYSTEM_DATA = Path("/usr/share/datasets")

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
    progress: Say | None = None,
) -> ImageSet:
    """Open the set that a recipe asks for.

    The place is `root` (what --data gave), else data.root, else where `find_set` finds it; a published set with a
    download that is nowhere is fetched into the settings' data folder.

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
    record = find_record(data.kind)
    given = str(root) if root is not None else data.root
    fit: Fit = _EVALUATION.get(data.fit, data.fit) if evaluation else data.fit
    common = _Common(licence=record.licence, image_size=image_size, fit=fit, grey=data.channels == "grey")
    if given is not None and is_url(given):
        return _open_remote(record, given, split, evaluation, common)
    place = _missing_set(record, download, progress) if given is None else _given_set(record, given)
    found = record.read(place, split, progress)
    name = record.name if record.own_name is None else record.own_name(place)
    if isinstance(found, Pixels):
        return MemoryImages(name=name, root=place, class_names=record.class_names, **found._asdict(), **common)
    if isinstance(found, ShardIndex):
        return ShardImages(
            name=name, root=place, class_names=found.class_names, labels=found.labels, index=found, **common
        )
    return FolderImages(
        name=name, root=place, class_names=found.class_names, labels=found.labels, listing=found, **common
    )


def find_set(record: DatasetRecord, settings: Settings) -> Path | None:
    """Where a set is without --data: its sub-folder of the data folder, the data folder itself, or the system's."""
    if record.find is None:
        return None
    places = (settings.data / record.name, settings.data, SYSTEM_DATA / record.name)
    return next((found for found in map(record.find, places) if found), None)


class _Common(TypedDict):
    """What every kind of set is told alike."""

    licence: str
    image_size: int
    fit: Fit
    grey: bool


def _given_set(record: DatasetRecord, given: str) -> Path:
    """The folder of a set at the place that was given."""
    place = _place(record, given)
    if not record.expected:
        return place
    if record.find and (found := record.find(place)):
        return found
    raise UsageError(
        f"No {record.name} in {place}: expected {record.expected}.",
        "For a folder of other images train the recipe folder32 or folder256.",
    )


def _missing_set(record: DatasetRecord, download: bool, say: Say | None) -> Path:
    """The folder of a set where no place was given; the set is fetched if need be."""
    settings = load_settings()
    if found := find_set(record, settings):
        return found
    if record.find is None:
        raise UsageError(f'data.kind = "{record.name}" needs a place: {record.place}, as --data or data.root.')
    if record.download is None:
        wanted = "images" if record.own_name else f"the images of {record.name}"
        raise UsageError(
            f"There is nothing to train on yet: put {wanted}, one folder a class, into {settings.data / record.name} "
            "or name another place with --data PATH (add --smoke to try three steps first)."
        )
    if not download:
        raise UsageError(
            f"No {record.name} in {settings.data}: expected {record.expected}.", "Give its folder with --data PATH."
        )
    fetched = fetch_set(record.download, settings.data, offline=settings.offline, say=say)
    return record.find(fetched) or fetched


def _place(record: DatasetRecord, given: str) -> Path:
    """A place on this machine that may be looked at.

    Raises:
        UsageError: it is empty, no file can have this name, or there is no such user.
        FileError: it may not be looked at.
    """
    if not given:
        raise UsageError("The place of the data is empty.", "Write . for the folder you are in.")
    place = expanded(given)
    try:
        if not (record.addresses and "{" in given):  # the shards of a pattern are looked at one by one
            place.stat()
    except (FileNotFoundError, NotADirectoryError):  # told by whoever knows what was expected there
        pass
    except ValueError:
        raise UsageError(f"Expected a place of data, got {quoted(given)}: no file can have this name.") from None
    except OSError as error:
        raise FileError(f"Cannot read {shortened(given)}: {error.strerror or error}.") from None
    return place


def _open_remote(record: DatasetRecord, url: str, split: Split, evaluation: bool, common: _Common) -> RemoteImages:
    if not record.addresses:
        raise UsageError(
            f'{url} is an address, which data.kind = "{record.name}" does not read.',
            "Tar shards are read from an address: --set data.kind=shards.",
        )
    if evaluation or split == "test":
        raise UsageError(
            f"Shards at {url} are read for training only.",
            "Fetch them into a folder and give that with --data FOLDER.",
        )
    index = open_index(url)
    # The last folder of the address; never its host, since models carry the name.
    folder = urllib.parse.urlsplit(urllib.parse.urljoin(url, ".")).path.rstrip("/").rpartition("/")[2]
    return RemoteImages(
        name=folder or record.name,
        root=index.folder,
        class_names=index.class_names,
        labels=torch.full((sum(index.counts),), -1 if index.class_names else 0),
        url=url,
        index=index,
        **common,
    )

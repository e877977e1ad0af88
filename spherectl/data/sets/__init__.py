"""The data sets: one file each in this folder, with a `RECORD` of all that the program knows of the set.

A file here is found by its being here. Recipes, `open_dataset`, `doctor`, classes and the table in docs/data.md look
records up; none of them names a set. A record is read without torch or numpy, so a file imports what its functions need
inside them.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from spherectl.errors import UsageError
from spherectl.shown import listed, quoted

# Called with a sentence before something that takes long.
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Download:
    """Where a published set is fetched from.

    Attributes:
        title: what the set is called in sentences.
        folder: what `fetch` makes.
        site: where people get it themselves.
        megabytes: of the download.
        fetch: makes `folder` in the folder it is given; it may raise FileError and SpherectlError.
    """

    title: str
    folder: str
    site: str
    megabytes: int
    fetch: Callable[[Path], object]


@dataclass(frozen=True, kw_only=True)
class DatasetRecord:
    """What the program knows of one data set, or of one layout of people's own images.

    Attributes:
        name: `data.kind` in a recipe.
        place: what --data names.
        licence: what its makers say about its use.
        read: `read(place, split, say)` gives the images of "train" or "test": a `Listing` of files, `Pixels`, or a
            `ShardIndex`. `say` takes a sentence, or is None.
        find: the set's folder at or below a folder, or None; sets without it need --data.
        expected: the files that `find` looks for; empty where `read` itself says what is missing.
        classes: what the classes are, for people; empty: `class_names` says it.
        class_names: of a set whose classes are always the same, class 0 first.
        called: a pattern for what people call the set in names of recipes and checkpoints; empty: such names do not
            tell the classes.
        captions: whether its images have captions.
        train_images: how many; None where it is not the same everywhere.
        image_px: sizes of its images.
        channels: "grey" where all images are.
        download: where it is fetched from; None: people get it themselves.
        addresses: whether --data may be an address or a pattern.
        own_name: the name of people's own images at a place; None: the record's.
    """

    name: str
    place: str
    licence: str
    read: Callable[[Path, Any, Say | None], Any]
    find: Callable[[Path], Path | None] | None = None
    expected: str = ""
    classes: str = ""
    class_names: tuple[str, ...] = ()
    called: str = ""
    captions: bool = False
    train_images: int | None = None
    image_px: str = "any"
    channels: Literal["rgb", "grey"] = "rgb"
    download: Download | None = None
    addresses: bool = False
    own_name: Callable[[Path], str] | None = None


@functools.cache
def records() -> dict[str, DatasetRecord]:
    """Every record by name; the layouts of people's own images come first."""
    files = sorted(file.name for file in pkgutil.iter_modules(__path__))
    found: list[DatasetRecord] = [importlib.import_module(f"{__name__}.{file}").RECORD for file in files]
    return {record.name: record for record in sorted(found, key=lambda one: one.own_name is None)}


def find_record(name: str) -> DatasetRecord:
    """The record of a name.

    Raises:
        UsageError: there is none; the sentence lists those there are.
    """
    if name not in records():
        raise UsageError(f"There is no data set {quoted(name)}.", f"Those there are: {listed(records(), 40)}.")
    return records()[name]


def read_class_names(name: str) -> tuple[str, ...]:
    """The names in a file of spherectl/class_names, class 0 first (SOURCES.md there says where they are from)."""
    file = Path(__file__).parents[2] / "class_names" / f"{name}.txt"
    return tuple(file.read_text(encoding="utf-8").splitlines())

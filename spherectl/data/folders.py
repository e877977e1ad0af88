"""Folders of images: which files there are, in which order, of which class.

Three layouts are understood. Class folders: `root/cat/1.png`, one folder a class, classes numbered by sorted name.
Flat: `root/1.png`, no classes. Split: `root/train/...` and `root/val/...` (or one of the other words of
`spherectl.data.names`, in any case), each in one of the two layouts above. Images lie directly in these folders; deeper
ones are not looked for. Hidden names and the system's own folders are ignored.

A listing is kept in the cache, and holds while no folder that was looked into has another state.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spherectl.classes import check_class_names
from spherectl.data.decode import SUFFIXES, is_image_name, is_other_image_name
from spherectl.data.indexes import state_of
from spherectl.data.listings import Listing, keep, kept
from spherectl.data.names import Split, is_hidden, of_split, pack_names, split_of
from spherectl.errors import FileError, UsageError
from spherectl.files import is_folder, is_there
from spherectl.shown import listed


def list_images(root: Path, split: Split = "train") -> Listing:
    """All images of one split below `root`, in an order that depends on their names alone.

    A root without split folders is a training set. Labels of a test split are numbers of the training split's classes.

    Raises:
        UsageError: `root` is missing, no folder, has no images, mixes images with class folders, has a class folder
            without images, or has no such split.
        FileError: a folder cannot be read.
    """
    if not is_there(root):
        raise UsageError(f"Expected a folder of images at {root}; there is nothing of that name.")
    if not is_folder(root):
        raise UsageError(f"Expected a folder of images, got the file {root}.", _hint_for_file(root))
    if (found := kept(_key(root, split), root)) is not None:
        return found
    now = time.time_ns()
    scan = _Scan()
    listing = _list_split(scan, root, split)
    keep(_key(root, split), listing, root, scan.states, now)
    return listing


def holds_images(root: Path) -> bool:
    """Whether `root` is, as a whole, in one of the layouts; looks at as few folders as it can."""
    try:
        if not is_folder(root):
            return False
        if kept(_key(root, "train"), root) is not None:
            return True
        scan = _Scan()
        folder = _split_folder(scan, root, "train") or root
        below = [scan.has_images(sub) for sub in scan.subfolders(folder)]
        return all(below) if any(below) else scan.has_images(folder)
    except (FileError, UsageError):
        return False


class _Seen(NamedTuple):
    """What lies directly in a folder, sorted; hidden names left out."""

    subfolders: tuple[Path, ...]
    images: npt.NDArray[np.bytes_]


class _Scan:
    """Looks into each folder once, and notes in `states` in which state it was before that."""

    def __init__(self) -> None:
        self.states: dict[Path, list[int]] = {}
        self._seen: dict[Path, _Seen] = {}

    def subfolders(self, folder: Path) -> tuple[Path, ...]:
        return self._look(folder).subfolders

    def images(self, folder: Path) -> npt.NDArray[np.bytes_]:
        return self._look(folder).images

    def has_images(self, folder: Path) -> bool:
        return len(self.images(folder)) > 0

    def _look(self, folder: Path) -> _Seen:
        if folder not in self._seen:
            try:
                self.states[folder] = state_of(folder)
                with os.scandir(folder) as entries:
                    shown = [entry for entry in entries if not is_hidden(entry.name)]
            except OSError as error:
                raise FileError(f"Cannot read the folder {folder}: {error.strerror or error}.") from None
            subfolders = sorted(entry.name for entry in shown if _is_folder(entry))
            # A broken link counts: it is reported when it is read, instead of a class getting smaller in silence.
            images = sorted(entry.name for entry in shown if is_image_name(entry.name) and not _is_folder(entry))
            self._seen[folder] = _Seen(tuple(folder / name for name in subfolders), pack_names(images))
        return self._seen[folder]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _key(root: Path, split: Split) -> str:
    return f"folder {root.absolute()} {split} {' '.join(SUFFIXES)}"


def _list_split(scan: _Scan, root: Path, split: Split) -> Listing:
    train = _split_folder(scan, root, "train")
    if train is None:
        if split == "test":
            raise UsageError(
                f"{root} has no test images: expected train and val (or test) folders in it.",
                "Without them the whole folder is the training set.",
            )
        return _list_folder(scan, root)
    if split == "train":
        return _list_folder(scan, train)
    test = _split_folder(scan, root, "test")
    if test is None:
        raise UsageError(
            f"{root} has the folder {train.name} but no test images: expected a val or test folder beside it."
        )
    known = tuple(folder.name for folder in _class_folders(scan, train))
    if known and not _class_folders(scan, test) and scan.has_images(test):
        raise UsageError(
            f"{test} has images without class folders, while {train} has {len(known):,} class folders.",
            "Sort them into folders of the same names; for ImageNet its devkit says which image is of which class.",
        )
    return _list_folder(scan, test, known)


def _split_folder(scan: _Scan, root: Path, split: Split) -> Path | None:
    """The folder of one part of a set that is split; None where the set is not, or lacks that part.

    A set is split that has a train folder, and neither images nor a class folder beside it ("train" may be a class,
    next to "car").

    Raises:
        UsageError: whether it is split is unclear.
    """
    names = [folder.name for folder in scan.subfolders(root)]
    trains, tests = of_split(names, "train"), of_split(names, "test")
    if not (trains or tests) or scan.has_images(root):
        return None
    others = [name for name in names if split_of(name) is None and scan.has_images(root / name)]
    if others and trains and tests:
        raise UsageError(
            f"{root} has the folders {trains[0]} and {tests[0]} beside others with images ({listed(others, 3)}): "
            "it is unclear whether they are classes or parts of the set.",
            f"For a set in two parts move the others away; for classes rename {trains[0]} and {tests[0]}.",
        )
    if others:
        return None
    if len(trains) > 1:
        raise UsageError(
            f"{root} has more than one training folder: {listed(trains)}; expected one.",
            "Move their images into one.",
        )
    if not trains:
        if not any(scan.has_images(root / name) or _class_folders(scan, root / name) for name in tests):
            return None
        raise UsageError(
            f"{root} has test images ({listed(tests)}) but no train folder beside them.",
            f"Name the folder of the training images train, or give --data {root / tests[0]} to train on those.",
        )
    found = trains if split == "train" else tests
    return root / found[0] if found else None


def _list_folder(scan: _Scan, folder: Path, known: tuple[str, ...] = ()) -> Listing:
    """The images of one split; `known` are the classes to number by, where another split has fixed them."""
    classes, top = _class_folders(scan, folder), scan.images(folder)
    if classes and len(top):
        raise UsageError(
            f"{folder} mixes images ({os.fsdecode(bytes(top[0]))}, ...) with class folders ({classes[0].name}, ...).",
            "Move the images into class folders, or leave only images.",
        )
    if not classes:
        if not len(top):
            raise UsageError(
                f"No images found in {folder}: expected {' '.join(SUFFIXES)} files in it or in class folders.",
                _hint_for_folder(folder),
            )
        return Listing(folder, top, torch.zeros(len(top), dtype=torch.int64), ())

    class_names = known or check_class_names([sub.name for sub in classes], f"The class folders in {folder}")
    number = {name: i for i, name in enumerate(class_names)}
    names: list[npt.NDArray[np.bytes_]] = []
    labels: list[Tensor] = []
    for sub in classes:
        if sub.name not in number:
            raise UsageError(f"{sub} is a class that the training images beside it do not have.")
        inside = scan.images(sub)
        if not len(inside):
            raise UsageError(
                f"The class folder {sub} holds no images ({' '.join(SUFFIXES)}).",
                "Fill it or remove it: classes are counted by folder.",
            )
        names.append(np.char.add(os.fsencode(sub.name + os.sep), inside))
        labels.append(torch.full((len(inside),), number[sub.name]))
    return Listing(folder, np.concatenate(names), torch.cat(labels), class_names)


def _class_folders(scan: _Scan, folder: Path) -> tuple[Path, ...]:
    """All sub-folders, sorted by name, if any of them holds an image; else none."""
    folders = scan.subfolders(folder)
    return folders if any(scan.has_images(sub) for sub in folders) else ()


def _hint_for_file(file: Path) -> str:
    """What a file given as a folder may have been meant as."""
    kinds = {".jsonl": "jsonl", ".tar": "shards"}
    if kind := kinds.get(file.suffix):
        return f"To train on what it lists or holds add --set data.kind={kind}."
    return "Give the folder that the file is in."


def _hint_for_folder(folder: Path) -> str:
    """What a folder without images may have been meant as."""
    for suffix, kind in ((".tar", "shards"), (".jsonl", "jsonl")):
        if any(folder.glob(f"*{suffix}")):
            return f"It holds {suffix} files; to train on those add --set data.kind={kind}."
    others = sorted({path.suffix for path in folder.iterdir() if is_other_image_name(path.name)})
    return f"It holds {listed(others)} files, which are not read; convert them to one of the others." if others else ""

"""Folders of pictures: which files there are, in which order, of which class.

Three layouts are understood. Class folders: `root/cat/1.png`, one folder a class, classes numbered by sorted name.
Flat: `root/1.png`, no classes. Split: `root/train/...` and `root/val/...` or `root/test/...`, each of which is one of
the former. Pictures lie directly in these folders; deeper ones are not looked for. Hidden names are ignored.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spherectl.data.decode import SUFFIXES
from spherectl.data.formats import Split
from spherectl.errors import FileError, UsageError

_SPLIT_FOLDERS: dict[str, tuple[str, ...]] = {"train": ("train",), "test": ("val", "test")}


@dataclass(frozen=True, eq=False)
class Listing:
    """The pictures of a folder.

    Attributes:
        folder: what `names` are relative to.
        names: (n,) file names as the system's bytes. An array, not a list: ImageNet's 1.28 million names are shared
            with worker processes, and every look at a Python string would copy its page of memory.
        labels: (n,) int64; zeros where there are no classes.
        class_names: names of the class folders, sorted; empty for a flat folder.
    """

    folder: Path
    names: npt.NDArray[np.bytes_]
    labels: Tensor
    class_names: tuple[str, ...]

    def path(self, index: int) -> Path:
        """The file of picture `index`."""
        return self.folder / os.fsdecode(bytes(self.names[index]))


def list_pictures(root: Path, split: Split = "train") -> Listing:
    """All pictures of one split below `root`, in an order that depends on their names alone.

    A root without split folders is a training set. Labels of a test split are numbers of the training split's classes.

    Raises:
        UsageError: `root` is missing, no folder, has no pictures, mixes pictures with class folders, has a class folder
            without pictures, or has no such split.
        FileError: a folder cannot be read.
    """
    if not root.exists():
        raise UsageError(f"Expected a folder of pictures at {root}; there is nothing of that name.")
    if not root.is_dir():
        raise UsageError(f"Expected a folder of pictures, got the file {root}.", "Give the folder that the file is in.")
    if not _is_split(root):
        if split == "test":
            raise UsageError(
                f"{root} has no test pictures: expected train and val (or test) folders in it.",
                "Without them the whole folder is the training set.",
            )
        return _list_folder(root)
    if split == "train":
        return _list_folder(root / "train")
    found = [root / name for name in _SPLIT_FOLDERS[split] if (root / name).is_dir()]
    if not found:
        raise UsageError(f"{root} has a train folder but no test pictures: expected a val or test folder beside it.")
    names = _class_folders(root / "train")
    return _list_folder(found[0], tuple(folder.name for folder in names) if names else ())


def holds_pictures(root: Path) -> bool:
    """Whether `root` is, as a whole, in one of the layouts; looks at as few files as it can."""
    try:
        if not root.is_dir():
            return False
        folder = root / "train" if _is_split(root) else root
        below = [_has_picture(sub) for sub in _subfolders(folder)]
        return all(below) if any(below) else _has_picture(folder)
    except FileError:
        return False


def _is_split(root: Path) -> bool:
    """A train folder, and neither pictures nor a class folder beside it ("train" may be a class, next to "car")."""
    if not (root / "train").is_dir() or _has_picture(root):
        return False
    splits = {name for names in _SPLIT_FOLDERS.values() for name in names}
    return not any(_has_picture(folder) for folder in _subfolders(root) if folder.name not in splits)


def _list_folder(folder: Path, known: tuple[str, ...] = ()) -> Listing:
    """The pictures of one split; `known` are the classes to number by, where another split has fixed them."""
    classes, top = _class_folders(folder), _picture_names(folder)
    if classes and top:
        raise UsageError(
            f"{folder} mixes pictures ({top[0]}, ...) with class folders ({classes[0].name}, ...).",
            "Move the pictures into class folders, or leave only pictures.",
        )
    if not classes:
        if not top:
            raise UsageError(
                f"No pictures found in {folder}: expected {' '.join(SUFFIXES)} files in it or in class folders."
            )
        return Listing(folder, pack_names(top), torch.zeros(len(top), dtype=torch.int64), ())

    class_names = known or tuple(sub.name for sub in classes)
    number = {name: i for i, name in enumerate(class_names)}
    names: list[str] = []
    labels: list[int] = []
    for sub in classes:
        if sub.name not in number:
            raise UsageError(f"{sub} is a class that the training pictures beside it do not have.")
        inside = [os.path.join(sub.name, name) for name in _picture_names(sub)]  # noqa: PTH118
        if not inside:
            raise UsageError(
                f"The class folder {sub} holds no pictures ({' '.join(SUFFIXES)}).",
                "Fill it or remove it: classes are counted by folder.",
            )
        names += inside
        labels += [number[sub.name]] * len(inside)
    return Listing(folder, pack_names(names), torch.tensor(labels, dtype=torch.int64), class_names)


def _class_folders(folder: Path) -> list[Path]:
    """All sub-folders, sorted by name, if any of them holds a picture; else none."""
    folders = _subfolders(folder)
    return folders if any(_has_picture(sub) for sub in folders) else []


def _subfolders(folder: Path) -> list[Path]:
    return sorted((folder / entry.name for entry in _entries(folder) if entry.is_dir()), key=lambda sub: sub.name)


def _has_picture(folder: Path) -> bool:
    return any(_is_picture(entry) for entry in _entries(folder))


def _picture_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(folder) if _is_picture(entry))


def _is_picture(entry: os.DirEntry[str]) -> bool:
    # A broken link counts: it is reported when it is read, instead of a class getting smaller in silence.
    return entry.name.lower().endswith(SUFFIXES) and not entry.is_dir()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise FileError(f"Cannot read the folder {folder}: {error.strerror or error}.") from None


def pack_names(names: Sequence[str]) -> npt.NDArray[np.bytes_]:
    """File names as `Listing.names` holds them."""
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)

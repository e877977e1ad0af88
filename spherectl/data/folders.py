"""Folders of pictures: which files there are, in which order, of which class.

Three layouts are understood. Class folders: `root/cat/1.png`, one folder a class, classes numbered by sorted name.
Flat: `root/1.png`, no classes. Split: `root/train/...` and `root/val/...` or `root/test/...`, each of which is one of
the former. Pictures lie directly in these folders; deeper ones are not looked for. Hidden names are ignored.

A listing is kept in the cache, and holds while no folder that was looked into has another time of change.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spherectl.data.decode import SUFFIXES
from spherectl.data.formats import Split
from spherectl.data.indexes import Index, is_settled, load_index, save_index
from spherectl.errors import FileError, UsageError

_SPLIT_FOLDERS: dict[str, tuple[str, ...]] = {"train": ("train",), "test": ("val", "test")}


@dataclass(frozen=True, eq=False)
class Listing:
    """The pictures of a folder or a list.

    Attributes:
        folder: what `names` are relative to.
        names: (n,) file names as the system's bytes. An array, not a list: ImageNet's 1.28 million names are shared
            with worker processes, and every look at a Python string would copy its page of memory.
        labels: (n,) int64; zeros where there are no classes.
        class_names: by number; empty where there are no classes.
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
        raise UsageError(f"Expected a folder of pictures, got the file {root}.", _hint_for_file(root))
    if (kept := _kept(root, split)) is not None:
        return kept
    now = time.time_ns()
    scan = _Scan()
    listing = _list_split(scan, root, split)
    if all(is_settled(changed, now) for changed in scan.changed_ns.values()):
        facts = {
            "folder": str(listing.folder.relative_to(root)),
            "class_names": listing.class_names,
            "folders": [str(folder.relative_to(root)) for folder in scan.changed_ns],
        }
        changed_ns = np.array(list(scan.changed_ns.values()), np.int64)
        arrays = {"names": listing.names, "labels": listing.labels.numpy(), "changed_ns": changed_ns}
        save_index(_key(root, split), Index(facts, arrays))
    return listing


def holds_pictures(root: Path) -> bool:
    """Whether `root` is, as a whole, in one of the layouts; looks at as few folders as it can."""
    try:
        if not root.is_dir():
            return False
        if _kept(root, "train") is not None:
            return True
        scan = _Scan()
        folder = root / "train" if _is_split(scan, root) else root
        below = [scan.has_pictures(sub) for sub in scan.subfolders(folder)]
        return all(below) if any(below) else scan.has_pictures(folder)
    except FileError:
        return False


def pack_names(names: Sequence[str]) -> npt.NDArray[np.bytes_]:
    """File names as `Listing.names` holds them."""
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)


class _Seen(NamedTuple):
    """What lies directly in a folder, sorted; hidden names left out."""

    subfolders: tuple[Path, ...]
    pictures: npt.NDArray[np.bytes_]


class _Scan:
    """Looks into each folder once, and notes in `changed_ns` when it had last been changed before that."""

    def __init__(self) -> None:
        self.changed_ns: dict[Path, int] = {}
        self._seen: dict[Path, _Seen] = {}

    def subfolders(self, folder: Path) -> tuple[Path, ...]:
        return self._look(folder).subfolders

    def pictures(self, folder: Path) -> npt.NDArray[np.bytes_]:
        return self._look(folder).pictures

    def has_pictures(self, folder: Path) -> bool:
        return len(self.pictures(folder)) > 0

    def _look(self, folder: Path) -> _Seen:
        if folder not in self._seen:
            try:
                self.changed_ns[folder] = folder.stat().st_mtime_ns
                with os.scandir(folder) as entries:
                    shown = [entry for entry in entries if not entry.name.startswith(".")]
            except OSError as error:
                raise FileError(f"Cannot read the folder {folder}: {error.strerror or error}.") from None
            subfolders = sorted(entry.name for entry in shown if entry.is_dir())
            pictures = sorted(entry.name for entry in shown if _is_picture(entry))
            self._seen[folder] = _Seen(tuple(folder / name for name in subfolders), pack_names(pictures))
        return self._seen[folder]


def _is_picture(entry: os.DirEntry[str]) -> bool:
    # A broken link counts: it is reported when it is read, instead of a class getting smaller in silence.
    return entry.name.lower().endswith(SUFFIXES) and not entry.is_dir()


def _key(root: Path, split: Split) -> str:
    return f"folder {root.absolute()} {split} {' '.join(SUFFIXES)}"


def _kept(root: Path, split: Split) -> Listing | None:
    """The listing in the cache, if no folder has changed since."""
    index = load_index(_key(root, split))
    if index is None:
        return None
    folders, changed_ns = index.facts["folders"], index.arrays["changed_ns"].tolist()
    try:
        if any((root / name).stat().st_mtime_ns != before for name, before in zip(folders, changed_ns, strict=True)):
            return None
    except OSError:  # a folder is gone
        return None
    names, labels = index.arrays["names"], torch.from_numpy(index.arrays["labels"])
    return Listing(root / index.facts["folder"], names, labels, tuple(index.facts["class_names"]))


def _list_split(scan: _Scan, root: Path, split: Split) -> Listing:
    if not _is_split(scan, root):
        if split == "test":
            raise UsageError(
                f"{root} has no test pictures: expected train and val (or test) folders in it.",
                "Without them the whole folder is the training set.",
            )
        return _list_folder(scan, root)
    if split == "train":
        return _list_folder(scan, root / "train")
    found = [root / name for name in _SPLIT_FOLDERS[split] if (root / name).is_dir()]
    if not found:
        raise UsageError(f"{root} has a train folder but no test pictures: expected a val or test folder beside it.")
    known = tuple(folder.name for folder in _class_folders(scan, root / "train"))
    if known and not _class_folders(scan, found[0]) and scan.has_pictures(found[0]):
        raise UsageError(
            f"{found[0]} has pictures without class folders, while {root / 'train'} has {len(known):,} class folders.",
            "Sort them into folders of the same names; for ImageNet its devkit says which picture is of which class.",
        )
    return _list_folder(scan, found[0], known)


def _is_split(scan: _Scan, root: Path) -> bool:
    """A train folder, and neither pictures nor a class folder beside it ("train" may be a class, next to "car")."""
    if not (root / "train").is_dir() or scan.has_pictures(root):
        return False
    splits = {name for names in _SPLIT_FOLDERS.values() for name in names}
    return not any(scan.has_pictures(folder) for folder in scan.subfolders(root) if folder.name not in splits)


def _list_folder(scan: _Scan, folder: Path, known: tuple[str, ...] = ()) -> Listing:
    """The pictures of one split; `known` are the classes to number by, where another split has fixed them."""
    classes, top = _class_folders(scan, folder), scan.pictures(folder)
    if classes and len(top):
        raise UsageError(
            f"{folder} mixes pictures ({os.fsdecode(bytes(top[0]))}, ...) with class folders ({classes[0].name}, ...).",
            "Move the pictures into class folders, or leave only pictures.",
        )
    if not classes:
        if not len(top):
            raise UsageError(
                f"No pictures found in {folder}: expected {' '.join(SUFFIXES)} files in it or in class folders.",
                _hint_for_folder(folder),
            )
        return Listing(folder, top, torch.zeros(len(top), dtype=torch.int64), ())

    class_names = known or tuple(sub.name for sub in classes)
    number = {name: i for i, name in enumerate(class_names)}
    names: list[npt.NDArray[np.bytes_]] = []
    labels: list[Tensor] = []
    for sub in classes:
        if sub.name not in number:
            raise UsageError(f"{sub} is a class that the training pictures beside it do not have.")
        inside = scan.pictures(sub)
        if not len(inside):
            raise UsageError(
                f"The class folder {sub} holds no pictures ({' '.join(SUFFIXES)}).",
                "Fill it or remove it: classes are counted by folder.",
            )
        names.append(np.char.add(os.fsencode(sub.name + os.sep), inside))
        labels.append(torch.full((len(inside),), number[sub.name]))
    return Listing(folder, np.concatenate(names), torch.cat(labels), class_names)


def _class_folders(scan: _Scan, folder: Path) -> tuple[Path, ...]:
    """All sub-folders, sorted by name, if any of them holds a picture; else none."""
    folders = scan.subfolders(folder)
    return folders if any(scan.has_pictures(sub) for sub in folders) else ()


def _hint_for_file(file: Path) -> str:
    """What a file given as a folder may have been meant as."""
    kinds = {".jsonl": "jsonl", ".tar": "shards"}
    if kind := kinds.get(file.suffix):
        return f"To train on what it lists or holds add --set data.kind={kind}."
    return "Give the folder that the file is in."


def _hint_for_folder(folder: Path) -> str:
    """What a folder without pictures may have been meant as."""
    for suffix, kind in ((".tar", "shards"), (".jsonl", "jsonl")):
        if any(folder.glob(f"*{suffix}")):
            return f"It holds {suffix} files; to train on those add --set data.kind={kind}."
    return ""

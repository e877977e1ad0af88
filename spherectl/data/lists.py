"""Lists of images in JSON lines, one image a line.

    {"class_id": 0, "class_name": "cat", "image_path": "cats/1.png", "is_absolute_path": false}

Relative paths are relative to the list's folder. Lists without classes leave `class_id` and `class_name` out of every
line. A training list is any such file; in a folder it is train.jsonl, and the test list is val.jsonl or test.jsonl
beside it (`spherectl.data.names` has the other words for both).
"""

from __future__ import annotations

import os
import time
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch

from spherectl.classes import MAX_CLASSES, class_name_problem
from spherectl.data.indexes import state_of
from spherectl.data.listings import Listing, keep, kept
from spherectl.data.names import MAX_NAME_BYTES, Split, of_split, pack_names
from spherectl.documents import parse_json
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.files import is_folder, is_there, open_regular
from spherectl.shown import listed, quoted, shortened

SUFFIX = ".jsonl"

# Of one line, which may tell more of its image than is read here.
MAX_LINE_BYTES = 1 << 20


def find_list(root: Path, split: Split) -> Path:
    """The list of one split.

    Args:
        root: the training list, or a folder that holds train.jsonl.
        split: which of the two lists.

    Raises:
        UsageError: there is none.
    """
    if not is_there(root):
        raise UsageError(f"Expected a list of images (.jsonl) at {root}; there is nothing of that name.")
    train = _beside(root, "train") if is_folder(root) else root
    if train is None:
        raise UsageError(f"{root} holds no train{SUFFIX}.", "Name the list, or write it under that name.")
    if split == "train":
        return train
    test = _beside(train.parent, "test", train)
    if test is None:
        raise UsageError(
            f"There are no test images beside {train}: expected val{SUFFIX} or test{SUFFIX} in its folder."
        )
    return test


def _beside(folder: Path, split: Split, other: Path | None = None) -> Path | None:
    """The list of one split in a folder, by its name; not the `other`.

    Raises:
        UsageError: it is unclear which it is.
        FileError: the folder cannot be read.
    """
    try:
        names = [path.name for path in folder.iterdir() if path.suffix.lower() == SUFFIX and path != other]
    except OSError as error:
        raise FileError(f"Cannot read the folder {folder}: {error.strerror or error}.") from None
    stems = {name[: -len(SUFFIX)]: name for name in names}
    found = of_split(stems, split)
    if split == "train" and len(found) > 1:
        raise UsageError(
            f"{folder} holds more than one training list: {listed(stems[one] for one in found)}.", "Name one."
        )
    return folder / stems[found[0]] if found else None


def read_lists(root: Path, split: Split) -> Listing:
    """The images of one split, in the order of its list; labels are `class_id` as the training list has them.

    Args:
        root: as `find_list` takes it.
        split: which of the two lists.

    Raises:
        UsageError: there is no such list, it is empty, or its classes are not those of the training list.
        FileError: it cannot be read, or a line is not as described; the message has file and line.
    """
    train_path = find_list(root, "train")
    train = read_list(train_path)
    _check_complete(train, train_path)
    if split == "train":
        return train
    path = find_list(root, "test")
    test = read_list(path)
    for number, name in enumerate(test.class_names):
        if name and (number >= len(train.class_names) or train.class_names[number] != name):
            raise UsageError(
                f"{path}: class {number}, {shortened(name)}, is not a class of the training list beside it."
            )
    if bool(train.class_names) != bool(test.class_names):
        raise UsageError(f"{path} and the training list beside it must both have classes, or both have none.")
    return Listing(test.folder, test.names, test.labels, train.class_names)


def read_list(path: Path) -> Listing:
    """One list; a class that no image is of has an empty name.

    Raises:
        UsageError: it has no lines.
        FileError: it cannot be read, or a line is not as described.
    """
    key = f"jsonl {path.absolute()}"
    if (found := kept(key, path.parent)) is not None:
        return found
    try:
        state, now = state_of(path), time.time_ns()
        with open_regular(path) as file:
            listing = _parse(file, path)
    except SpherectlError:
        raise
    except OSError as error:
        raise FileError(f"Cannot read the list {path}: {error.strerror or error}.") from None
    keep(key, listing, path.parent, {path: state}, now)
    return listing


def _parse(file: BufferedReader, path: Path) -> Listing:
    names: list[bytes] = []
    labels: list[int] = []
    classes: dict[int, str] = {}
    where: dict[int, int] = {}  # the line that named a class first
    for line, text in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
        if len(text) > MAX_LINE_BYTES:
            raise FileError(
                f"{path}, line {line}: it has more than {MAX_LINE_BYTES:,} bytes; expected one JSON object."
            )
        if not text.strip():
            continue
        name, label, class_name = _entry(text, f"{path}, line {line}")
        if names and (label is None) != (not labels):
            raise FileError(f"{path}, line {line}: expected a class_id in every line or in none.")
        names.append(name)
        if label is None:
            continue
        labels.append(label)
        if classes.setdefault(label, class_name) != class_name:
            raise FileError(
                f"{path}, line {line}: class {label} is called {quoted(class_name)} here and "
                f"{quoted(classes[label])} in line {where[label]}."
            )
        where.setdefault(label, line)
    if not names:
        raise UsageError(f"The list {path} has no images.")
    class_names = tuple(classes.get(number, "") for number in range(max(labels) + 1)) if labels else ()
    numbers = torch.tensor(labels or [0] * len(names), dtype=torch.int64)
    return Listing(path.parent, pack_names(names), numbers, class_names)


def _entry(text: bytes, where: str) -> tuple[bytes, int | None, str]:
    """Path as the system's bytes, class number and class name of one line; `where` begins its errors.

    Raises:
        FileError: the line is not as described.
    """
    try:
        entry = parse_json(text)
    except ValueError as error:
        raise FileError(f"{where}: expected a JSON object, got {_short(text)} ({shortened(str(error))}).") from None
    if not isinstance(entry, dict):
        raise FileError(f"{where}: expected a JSON object, got {_short(text)}.")
    name, absolute = entry.get("image_path"), entry.get("is_absolute_path", False)
    if not isinstance(name, str) or not name or "\0" in name:
        raise FileError(f"{where}: expected image_path, the path of an image, {_got(entry, 'image_path')}.")
    if not isinstance(absolute, bool) or absolute != Path(name).is_absolute():
        raise FileError(
            f"{where}: image_path is {quoted(name)}, and is_absolute_path does not say so: {quoted(absolute)}."
        )
    try:
        packed = os.fsencode(name)
    except UnicodeEncodeError:
        raise FileError(f"{where}: image_path {quoted(name)} cannot be the name of a file.") from None
    if len(packed) > MAX_NAME_BYTES:
        raise FileError(f"{where}: image_path has {len(packed):,} bytes; a path has at most {MAX_NAME_BYTES:,}.")
    if "class_id" not in entry and "class_name" not in entry:
        return packed, None, ""
    label, class_name = entry.get("class_id"), entry.get("class_name")
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < MAX_CLASSES:
        raise FileError(f"{where}: expected class_id, a number from 0, {_got(entry, 'class_id')}.")
    if not isinstance(class_name, str):
        raise FileError(f"{where}: expected class_name, a name, {_got(entry, 'class_name')}.")
    if problem := class_name_problem(class_name):
        raise FileError(f"{where}: class_name: {problem}.")
    return packed, label, class_name


def _got(entry: dict[str, Any], key: str) -> str:
    return f"got {quoted(entry[key])}" if key in entry else "and there is none"


def _short(text: bytes) -> str:
    shown = text.strip().decode(errors="replace")
    return quoted(shown if len(shown) <= 40 else f"{shown[:40]}...")


def _check_complete(listing: Listing, path: Path) -> None:
    """Refuse a training list in which a class number below the largest has no image."""
    missing = [number for number, name in enumerate(listing.class_names) if not name]
    if missing:
        last = len(listing.class_names) - 1
        raise FileError(f"{path}: its class numbers reach {last}, and no image is of class {missing[0]}.")

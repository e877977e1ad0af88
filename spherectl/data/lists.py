"""Lists of pictures in JSON lines, one picture a line.

    {"class_id": 0, "class_name": "cat", "image_path": "cats/1.png", "is_absolute_path": false}

Relative paths are relative to the list's folder. Lists without classes leave `class_id` and `class_name` out of every
line. A training list is any such file; in a folder it is train.jsonl, and the test list is val.jsonl or test.jsonl
beside it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spherectl.data.folders import Listing
from spherectl.data.formats import Split
from spherectl.data.indexes import Index, is_settled, load_index, save_index
from spherectl.errors import FileError, UsageError

TRAIN_LIST, TEST_LISTS = "train.jsonl", ("val.jsonl", "test.jsonl")

# Without a bound one wrong number would become as many empty classes.
MOST_CLASSES = 1_000_000


def find_list(root: Path, split: Split) -> Path:
    """The list of one split.

    Args:
        root: the training list, or a folder that holds train.jsonl.
        split: which of the two lists.

    Raises:
        UsageError: there is none.
    """
    if not root.exists():
        raise UsageError(f"Expected a list of pictures (.jsonl) at {root}; there is nothing of that name.")
    train = root / TRAIN_LIST if root.is_dir() else root
    if not train.is_file():
        raise UsageError(f"{root} holds no {TRAIN_LIST}.", "Name the list, or write it under that name.")
    if split == "train":
        return train
    for name in TEST_LISTS:
        test = train.parent / name
        if test.is_file() and test != train:
            return test
    raise UsageError(f"There are no test pictures beside {train}: expected {' or '.join(TEST_LISTS)} in its folder.")


def read_lists(root: Path, split: Split) -> Listing:
    """The pictures of one split, in the order of its list; labels are `class_id` as the training list has them.

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
            raise UsageError(f"{path}: class {number}, {name}, is not a class of the training list beside it.")
    if bool(train.class_names) != bool(test.class_names):
        raise UsageError(f"{path} and the training list beside it must both have classes, or both have none.")
    return Listing(test.folder, test.names, test.labels, train.class_names)


def read_list(path: Path) -> Listing:
    """One list; a class that no picture is of has an empty name.

    Raises:
        UsageError: it has no lines.
        FileError: it cannot be read, or a line is not as described.
    """
    key = f"jsonl {path.absolute()}"
    try:
        status, now = path.stat(), time.time_ns()
        state = [status.st_size, status.st_mtime_ns]
        if (kept := load_index(key)) is not None and kept.facts["state"] == state:
            labels = torch.from_numpy(kept.arrays["labels"])
            return Listing(path.parent, kept.arrays["names"], labels, tuple(kept.facts["class_names"]))
        listing = _parse(path)
    except OSError as error:
        raise FileError(f"Cannot read the list {path}: {error.strerror or error}.") from None
    if is_settled(status.st_mtime_ns, now):
        facts = {"class_names": listing.class_names, "state": state}
        save_index(key, Index(facts, {"names": listing.names, "labels": listing.labels.numpy()}))
    return listing


def _parse(path: Path) -> Listing:
    names: list[bytes] = []
    labels: list[int] = []
    classes: dict[int, str] = {}
    where: dict[int, int] = {}  # the line that named a class first
    with path.open("rb") as file:
        for line, text in enumerate(file, 1):
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
                    f"{path}, line {line}: class {label} is called {class_name!r} here and {classes[label]!r} in line "
                    f"{where[label]}."
                )
            where.setdefault(label, line)
    if not names:
        raise UsageError(f"The list {path} has no pictures.")
    class_names = tuple(classes.get(number, "") for number in range(max(labels) + 1)) if labels else ()
    return Listing(
        path.parent,
        np.array(names, dtype=np.bytes_),
        torch.tensor(labels or [0] * len(names), dtype=torch.int64),
        class_names,
    )


def _entry(text: bytes, where: str) -> tuple[bytes, int | None, str]:
    """Path as the system's bytes, class number and class name of one line; `where` begins its errors.

    Raises:
        FileError: the line is not as described.
    """
    try:
        entry = json.loads(text)
    except ValueError as error:  # JSON or UTF-8
        raise FileError(f"{where}: expected a JSON object, got {_short(text)} ({error}).") from None
    if not isinstance(entry, dict):
        raise FileError(f"{where}: expected a JSON object, got {_short(text)}.")
    name, absolute = entry.get("image_path"), entry.get("is_absolute_path", False)
    if not isinstance(name, str) or not name or "\0" in name:
        raise FileError(f"{where}: expected image_path, the path of a picture, {_got(entry, 'image_path')}.")
    if not isinstance(absolute, bool) or absolute != Path(name).is_absolute():
        raise FileError(f"{where}: image_path is {name!r}, and is_absolute_path does not say so: {absolute!r}.")
    try:
        packed = os.fsencode(name)
    except UnicodeEncodeError:
        raise FileError(f"{where}: image_path {name!r} cannot be the name of a file.") from None
    if "class_id" not in entry and "class_name" not in entry:
        return packed, None, ""
    label, class_name = entry.get("class_id"), entry.get("class_name")
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < MOST_CLASSES:
        raise FileError(f"{where}: expected class_id, a number from 0, {_got(entry, 'class_id')}.")
    if not isinstance(class_name, str) or not class_name:
        raise FileError(f"{where}: expected class_name, a name, {_got(entry, 'class_name')}.")
    return packed, label, class_name


def _got(entry: dict[str, Any], key: str) -> str:
    return f"got {entry[key]!r}" if key in entry else "and there is none"


def _short(text: bytes) -> str:
    shown = text.strip().decode(errors="replace")
    return repr(shown if len(shown) <= 40 else f"{shown[:40]}...")


def _check_complete(listing: Listing, path: Path) -> None:
    """Refuse a training list in which a class number below the largest has no picture."""
    missing = [number for number, name in enumerate(listing.class_names) if not name]
    if missing:
        last = len(listing.class_names) - 1
        raise FileError(f"{path}: its class numbers reach {last}, and no picture is of class {missing[0]}.")

"""Sets of local tar shards: which files they are, and one index over all of them, kept in the cache.

A set is a folder of tars, a pattern (`train-{000000..000012}.tar`, `part-*.tar`) or one tar. A folder may be split in
two ways: train/ and val/ (or test/) folders of tars, or tars with the word val, validation or test in their names
beside those of the training set.
"""

from __future__ import annotations

import glob
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spherectl.data.formats import Split
from spherectl.data.indexes import Index, is_settled, load_index, save_index
from spherectl.data.tars import SUFFIXES, UNLABELLED, Shard, compressed, is_compressed, read_shard
from spherectl.errors import FileError, UsageError

CLASS_FILES = ("classes.txt", "class_names.json")
MOST_SHARDS = 1_000_000  # a pattern of more is a slip of the keyboard

_TEST_WORD = re.compile(r"(?<![a-z])(val|validation|test)(?![a-z])", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The pictures of several tars; each array runs over all of them.

    Attributes:
        paths: the tars.
        shard: (n,) int32 number of the tar in `paths`.
        pictures: where they are in it.
        labels: (n,) int64; zeros where there are no classes.
        class_names: by number; empty where there are no classes.
    """

    paths: tuple[Path, ...]
    shard: npt.NDArray[np.int32]
    pictures: Shard
    labels: Tensor
    class_names: tuple[str, ...]


def open_shards(root: Path, split: Split, progress: Callable[[str], None] | None = None) -> ShardIndex:
    """The pictures of one split of a set of shards, in the order of the tars' names.

    Class names are those in classes.txt (one a line) or class_names.json (a list) beside the tars or in the folder
    above, else the numbers themselves.

    Args:
        root: a folder, a pattern or one tar.
        split: which of the two.
        progress: called with a sentence before the tars' headers are read.

    Raises:
        UsageError: there are no such shards, they are compressed, or they hold no pictures.
        FileError: a shard or a class file cannot be read or is not as described.
    """
    paths, now = find_shards(root, split), time.time_ns()
    known = _class_names(paths[0].parent)
    try:
        states = [[status.st_size, status.st_mtime_ns] for status in (path.stat() for path in paths)]
    except OSError as error:
        raise FileError(f"Cannot read the shard {error.filename}: {error.strerror or error}.") from None
    key = f"shards {root.absolute()} {split}"
    facts = {"paths": [str(path.absolute()) for path in paths], "states": states, "known": known and list(known)}
    index = load_index(key)
    if index is not None and {name: index.facts[name] for name in facts} == facts:
        arrays = index.arrays
        pictures = Shard(*(arrays[name] for name in Shard._fields))
        labels = torch.from_numpy(arrays["numbers"])
        return ShardIndex(tuple(paths), arrays["shard"], pictures, labels, tuple(index.facts["class_names"]))
    if progress is not None:
        progress(f"Indexing {len(paths):,} shards")
    made = index_shards(paths, known, complete=split == "train")
    if all(is_settled(changed_ns, now) for _, changed_ns in states):
        arrays = {**made.pictures._asdict(), "shard": made.shard, "numbers": made.labels.numpy()}
        save_index(key, Index({**facts, "class_names": made.class_names}, arrays))
    return made


def find_shards(root: Path, split: Split) -> list[Path]:
    """The tars of one split, sorted.

    Raises:
        UsageError: there are none, one of a pattern is missing, or they are compressed.
        FileError: a folder cannot be read.
    """
    if root.is_dir():
        return _in_folder(root, split)
    if split == "test":
        raise UsageError(
            f"{root} names training shards, so there are no test pictures.",
            "Give a folder with train and val (or test) folders of shards.",
        )
    text = str(root)
    if _BRACES.search(text):
        paths = [Path(one) for one in expand_braces(text)]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise UsageError(f"{len(missing)} of the {len(paths):,} shards {root} are not there, as {missing[0]}.")
    else:
        paths = [root] if root.is_file() else [Path(one) for one in sorted(glob.glob(text))]  # noqa: PTH207
        if not paths:
            raise UsageError(f"Expected tar shards at {root}; there is nothing of that name.")
    for path in paths:
        if is_compressed(path.name):
            raise compressed(str(path))
    return sorted(paths)


def expand_braces(pattern: str) -> list[str]:
    """`a{08..10}.tar` as a08.tar, a09.tar, a10.tar, and `{a,b}.tar` as a.tar, b.tar, as a shell does.

    Raises:
        UsageError: braces that hold neither, or too many names.
    """
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    before, inside, after = pattern[: match.start()], match[1], pattern[match.end() :]
    if ends := _RANGE.fullmatch(inside):
        first, last = int(ends[1]), int(ends[2])
        if not first <= last < first + MOST_SHARDS:
            raise UsageError(f"{pattern}: {{{inside}}} is no range of shards; expected {{000000..000012}}.")
        parts = [f"{number:0{len(ends[1])}d}" for number in range(first, last + 1)]
    elif "," in inside:
        parts = inside.split(",")
    else:
        raise UsageError(f"{pattern}: expected a range {{000000..000012}} or a list {{a,b}} in the braces.")
    expanded = [f"{before}{part}{rest}" for rest in expand_braces(after) for part in parts]
    if len(expanded) > MOST_SHARDS:
        raise UsageError(f"{pattern} names {len(expanded):,} shards.")
    return sorted(expanded)


def index_shards(paths: Sequence[Path], known: tuple[str, ...] | None, *, complete: bool) -> ShardIndex:
    """All pictures of several tars, in their order.

    Args:
        paths: the tars.
        known: names of the classes by number; None: the numbers are the names.
        complete: whether, where the names are not known, each class below the largest must have a picture.

    Raises:
        UsageError: the tars hold no pictures.
        FileError: a tar is not as `read_shard` takes it, only some pictures have labels, or a label has no class.
    """
    shards = [read_shard(path) for path in paths]
    counts = [len(shard.names) for shard in shards]
    whole = Shard(*(np.concatenate([shard[i] for shard in shards]) for i in range(len(Shard._fields))))
    number = np.repeat(np.arange(len(paths), dtype=np.int32), counts)
    if not len(whole.names):
        raise UsageError(
            f"No pictures in {paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: expected members "
            f"KEY.{', KEY.'.join(SUFFIXES)}."
        )

    def member(i: int) -> str:
        return f"{paths[number[i]]}: {os.fsdecode(bytes(whole.names[i]))}"

    labels = whole.labels
    unlabelled = labels == UNLABELLED
    if unlabelled.all():
        return ShardIndex(tuple(paths), number, whole, torch.zeros(len(labels), dtype=torch.int64), ())
    if unlabelled.any():
        raise FileError(f"{member(int(unlabelled.argmax()))} has no label, and others have; expected all or none.")
    most = int(labels.max())
    if known is None:
        missing = np.setdiff1d(np.arange(most + 1), labels)
        if complete and len(missing):
            raise FileError(
                f"The labels reach {most}, as in {member(int(labels.argmax()))}, and no picture is of class "
                f"{missing[0]}: expected every class from 0.",
                f"If that is right, write the names of all classes, one a line, into {CLASS_FILES[0]} beside them.",
            )
        known = tuple(map(str, range(most + 1)))
    elif most >= len(known):
        raise FileError(f"{member(int(labels.argmax()))} is of class {most}; the class file has {len(known)} names.")
    return ShardIndex(tuple(paths), number, whole, torch.from_numpy(labels), known)


def parse_class_names(text: str, place: str) -> tuple[str, ...]:
    """The names in a class file: a JSON list, or one a line.

    Raises:
        FileError: it is empty, or JSON of another kind; the message begins with `place`.
    """
    if place.endswith(".json"):
        try:
            names = json.loads(text)
        except ValueError as error:
            raise FileError(f"{place} is not valid JSON: {error}.") from None
    else:
        names = [line.strip() for line in text.strip().splitlines()]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise FileError(f"{place}: expected a name for every class, in the order of their numbers.")
    return tuple(names)


def _class_names(folder: Path) -> tuple[str, ...] | None:
    """The names in the first class file beside the shards or one folder above; None where there is none."""
    for path in (place / name for place in (folder, folder.parent) for name in CLASS_FILES):
        if path.is_file():
            try:
                return parse_class_names(path.read_text(encoding="utf-8"), str(path))
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "it is not UTF-8"
                raise FileError(f"Cannot read {path}: {reason}.") from None
    return None


def _in_folder(root: Path, split: Split) -> list[Path]:
    if (root / "train").is_dir() and not _tars(root):
        folders = [root / "train"] if split == "train" else [root / "val", root / "test"]
        chosen = next((_tars(folder) for folder in folders if folder.is_dir()), [])
    else:
        chosen = [path for path in _tars(root) if bool(_TEST_WORD.search(path.stem)) == (split == "test")]
    if not chosen:
        if split == "test":
            raise UsageError(f"{root} has no test pictures: expected a val or test folder, or tars named so.")
        raise UsageError(f"No shards in {root}: expected .tar files.")
    return chosen


def _tars(folder: Path) -> list[Path]:
    """The tars in a folder, sorted."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise FileError(f"Cannot read the folder {folder}: {error.strerror or error}.") from None
    found = [folder / name for name in names if name.lower().endswith(".tar")]
    archives = [name for name in names if is_compressed(name)]
    if archives and not found:
        raise compressed(str(folder / archives[0]))
    return found

"""Sets of local tar shards: which files they are, and one index over all of them, kept in the cache.

A set is a folder of tars, a pattern (`train-{000000..000012}.tar`, `part-*.tar`) or one tar. A folder may be split in
two ways: train/ and val/ (or test/) folders of tars, or test tars with the word val or test in their names beside the
training tars; `spherectl.data.names` has the other words for both.
"""

from __future__ import annotations

import glob
import itertools
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spherectl.classes import check_class_names
from spherectl.data.indexes import Index, is_settled, load_index, save_index, state_of
from spherectl.data.listings import Listing, checked
from spherectl.data.names import TEST_WORDS, Split, has_test_word, is_hidden, of_split
from spherectl.data.tars import SUFFIXES, UNLABELLED, Shard, compressed, is_compressed, read_shard
from spherectl.documents import parse_json
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.files import is_folder, is_regular, is_there, read_text
from spherectl.shown import shortened

CLASS_FILES = ("classes.txt", "class_names.json")
MAX_SHARDS = 300_000  # a pattern of more is a slip of the keyboard; LAION's five billion images are in 231,349
MAX_PATTERN_BYTES = 256 << 20  # of all the names together

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})")


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The images of several tars; each array runs over all of them.

    Attributes:
        paths: the tars.
        shard: (n,) int32 number of the tar in `paths`.
        images: where they are in it.
        labels: (n,) int64; zeros where there are no classes.
        class_names: by number; empty where there are no classes.
    """

    paths: tuple[Path, ...]
    shard: npt.NDArray[np.int32]
    images: Shard
    labels: Tensor
    class_names: tuple[str, ...]


def open_shards(root: Path, split: Split, progress: Callable[[str], None] | None = None) -> ShardIndex:
    """The images of one split of a set of shards, in the order of the tars' names.

    Class names are those in classes.txt (one a line) or class_names.json (a list) beside the tars or in the folder
    above, else the numbers themselves.

    Args:
        root: a folder, a pattern or one tar.
        split: which of the two.
        progress: called with a sentence before the tars' headers are read.

    Raises:
        UsageError: there are no such shards, they are compressed, or they hold no images.
        FileError: a shard or a class file cannot be read or is not as described.
    """
    paths, now = find_shards(root, split), time.time_ns()
    known = _class_names(paths[0].parent)
    try:
        states = [state_of(path) for path in paths]
    except OSError as error:
        raise FileError(f"Cannot read the shard {error.filename}: {error.strerror or error}.") from None
    key = f"shards {root.absolute()} {split}"
    facts = {"paths": [str(path.absolute()) for path in paths], "states": states, "known": known and list(known)}
    if (kept := _kept(key, facts, paths)) is not None:
        return kept
    if progress is not None:
        progress(f"Indexing {len(paths):,} shards")
    made = index_shards(paths, known, complete=split == "train")
    if all(is_settled(state, now) for state in states):
        arrays = {**made.images._asdict(), "shard": made.shard, "numbers": made.labels.numpy()}
        save_index(key, Index({**facts, "class_names": made.class_names}, arrays))
    return made


def _kept(key: str, facts: dict[str, Any], paths: Sequence[Path]) -> ShardIndex | None:
    """The index in the cache, if the shards are those that it was made of."""

    def made(index: Index) -> ShardIndex | None:
        if {name: index.facts[name] for name in facts} != facts:
            return None
        images = Shard(*(index.arrays[name] for name in Shard._fields))
        shard, labels = index.arrays["shard"], torch.from_numpy(index.arrays["numbers"])
        checked(Listing(paths[0].parent, images.names, labels, tuple(index.facts["class_names"])))
        ends = np.array([size for size, *_ in facts["states"]])[shard]
        if shard.min() < 0 or images.offsets.min() < 0 or (images.offsets + images.sizes > ends).any():
            raise ValueError("images outside of their shards")
        return ShardIndex(tuple(paths), shard, images, labels, tuple(index.facts["class_names"]))

    kinds = dict.fromkeys(("offsets", "sizes", "labels", "numbers"), np.int64)
    return load_index(key, {**kinds, "names": np.bytes_, "shard": np.int32}, made)


def find_shards(root: Path, split: Split) -> list[Path]:
    """The tars of one split, sorted.

    Raises:
        UsageError: there are none, one of a pattern is missing, or they are compressed.
        FileError: a folder cannot be read.
    """
    if is_folder(root):
        return _in_folder(root, split)
    if split == "test":
        raise UsageError(
            f"{root} names training shards, so there are no test images.",
            "Give a folder with train and val (or test) folders of shards.",
        )
    text = str(root)
    if _BRACES.search(text):
        names = expand_braces(text)
        missing = [name for name in names if not is_regular(name)]
        if missing:
            raise UsageError(f"{len(missing):,} of the {len(names):,} shards {root} are not there, as {missing[0]}.")
        paths = [Path(name) for name in names]
    else:
        paths = [root] if is_there(root) else [Path(one) for one in sorted(glob.glob(text))]  # noqa: PTH207
        if not paths:
            raise UsageError(f"Expected tar shards at {root}; there is nothing of that name.")
    for path in paths:
        if is_compressed(path.name):
            raise compressed(str(path))
    return sorted(paths, key=lambda path: path.parts)  # as paths are compared, but taken apart once


def expand_braces(pattern: str) -> list[str]:
    """`a{08..10}.tar` as a08.tar, a09.tar, a10.tar, and `{a,b}.tar` as a.tar, b.tar, as a shell does; sorted.

    Raises:
        UsageError: braces that hold neither, or too many names.
    """
    literal, inside = _BRACES.split(pattern)[::2], _BRACES.split(pattern)[1::2]
    ranges = [_ends(one, pattern) for one in inside]
    pairs = list(zip(inside, ranges, strict=True))
    count = math.prod(one.count(",") + 1 if ends is None else len(ends) for one, ends in pairs)
    if count > MAX_SHARDS or count * len(pattern) > MAX_PATTERN_BYTES:
        raise UsageError(
            f"{shortened(pattern)} names too many shards; expected at most {MAX_SHARDS:,}.",
            "Give the folder that they are in, or a range such as {000000..000012}.",
        )
    choices = [
        one.split(",") if ends is None else [f"{number:0{one.index('.')}d}" for number in ends] for one, ends in pairs
    ]
    return sorted(
        literal[0] + "".join(part + rest for part, rest in zip(chosen, literal[1:], strict=True))
        for chosen in itertools.product(*choices)
    )


def _ends(inside: str, pattern: str) -> range | None:
    """The numbers of the range in a pair of braces; None for a list."""
    if ends := _RANGE.fullmatch(inside):
        first, last = int(ends[1]), int(ends[2])
        if first <= last:
            return range(first, last + 1)
        raise UsageError(f"{pattern}: {{{inside}}} is no range of shards; expected {{000000..000012}}.")
    if "," not in inside:
        raise UsageError(f"{pattern}: expected a range {{000000..000012}} or a list {{a,b}} in the braces.")
    return None


def index_shards(paths: Sequence[Path], known: tuple[str, ...] | None, *, complete: bool) -> ShardIndex:
    """All images of several tars, in their order.

    Args:
        paths: the tars.
        known: names of the classes by number; None: the numbers are the names.
        complete: whether, where the names are not known, each class below the largest must have an image.

    Raises:
        UsageError: the tars hold no images.
        FileError: a tar is not as `read_shard` takes it, only some images have labels, or a label has no class.
    """
    shards = [read_shard(path) for path in paths]
    counts = [len(shard.names) for shard in shards]
    whole = Shard(*(np.concatenate([shard[i] for shard in shards]) for i in range(len(Shard._fields))))
    number = np.repeat(np.arange(len(paths), dtype=np.int32), counts)
    if not len(whole.names):
        raise UsageError(
            f"No images in {paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: expected members "
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
                f"The labels reach {most}, as in {member(int(labels.argmax()))}, and no image is of class "
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
    if not place.endswith(".json"):
        return check_class_names([line.strip() for line in text.strip().splitlines()], place)
    try:
        names = parse_json(text)
    except ValueError as error:
        raise FileError(f"{place} is not valid JSON: {shortened(str(error))}.") from None
    return check_class_names(names, place)


def _class_names(folder: Path) -> tuple[str, ...] | None:
    """The names in the first class file beside the shards or one folder above; None where there is none."""
    for path in (place / name for place in (folder, folder.parent) for name in CLASS_FILES):
        try:
            return parse_class_names(read_text(path), str(path))
        except SpherectlError:
            raise
        except FileNotFoundError:
            continue
        except OSError as error:
            raise FileError(f"Cannot read {path}: {error.strerror or error}.") from None
    return None


def _in_folder(root: Path, split: Split) -> list[Path]:
    tars, chosen = _tars(root), list[Path]()
    if tars:
        chosen = [path for path in tars if has_test_word(path.stem) == (split == "test")]
    else:
        folders = [path.name for path in _entries(root) if is_folder(path)]
        if of_split(folders, "train"):
            chosen = next((found for name in of_split(folders, split) if (found := _tars(root / name))), [])
    if not chosen:
        if split == "test":
            raise UsageError(f"{root} has no test images: expected a val or test folder, or tars named so.")
        if tars:
            raise UsageError(
                f"No training shards in {root}: the names of all {len(tars):,} have one of the words "
                f"{', '.join(TEST_WORDS)}.",
                "Give a pattern to train on them all the same, as in --data 'FOLDER/*.tar'.",
            )
        raise UsageError(f"No shards in {root}: expected .tar files.")
    return chosen


def _tars(folder: Path) -> list[Path]:
    """The tars in a folder, sorted."""
    entries = _entries(folder)
    found = [path for path in entries if path.name.lower().endswith(".tar")]
    archives = [path for path in entries if is_compressed(path.name)]
    if archives and not found:
        raise compressed(str(archives[0]))
    return found


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted by name; hidden names left out."""
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if not is_hidden(name)]  # noqa: PTH208
    except OSError as error:
        raise FileError(f"Cannot read the folder {folder}: {error.strerror or error}.") from None

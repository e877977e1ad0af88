"""Names of files and folders: which never count, which part of a set a name means, how many fit into the memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from spherectl.errors import FileError

Split = Literal["train", "test"]

# What people call the two parts, in any case. Of several test parts the first in this order is taken.
TRAIN_WORDS = ("train", "training")
TEST_WORDS = ("val", "valid", "validation", "test", "testing", "dev", "eval", "evaluation")

# Left by macOS, Windows, Linux and Synology's systems; some hold thumbnails, some may not be read.
_SYSTEM = {"__macosx", "system volume information", "$recycle.bin", "lost+found", "@eadir", "#recycle", "#snapshot"}

# Every name takes the room of the longest. ImageNet's names take 77 MB.
MAX_NAMES_BYTES = 1 << 30
MAX_NAME_BYTES = 4096  # as long as a path may be on Linux

_TEST_WORD = re.compile(rf"(?<![a-z])({'|'.join(TEST_WORDS)})(?![a-z])", re.IGNORECASE)


def split_of(name: str) -> Split | None:
    """The part of a set that a folder or a list of this name is, by the name alone; None where it tells nothing.

    Example:
        >>> split_of("Validation"), split_of("training"), split_of("cat")
        ('test', 'train', None)
    """
    word = name.lower()
    return "train" if word in TRAIN_WORDS else "test" if word in TEST_WORDS else None


def of_split(names: Iterable[str], split: Split) -> list[str]:
    """The names that belong to one part of a set, in the order of `TRAIN_WORDS` or `TEST_WORDS`."""
    words = TRAIN_WORDS if split == "train" else TEST_WORDS
    return sorted((name for name in names if name.lower() in words), key=lambda name: (words.index(name.lower()), name))


def has_test_word(name: str) -> bool:
    """Whether one of the words of a test part stands in a name, as in "x-val-000000"; "latest" has none."""
    return bool(_TEST_WORD.search(name))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or the system's own: it never counts as an image or a class."""
    return name.startswith(".") or name.lower() in _SYSTEM


def pack_names(names: Sequence[str] | Sequence[bytes]) -> npt.NDArray[np.bytes_]:
    """Names as the system's bytes, in one array that worker processes share.

    Raises:
        FileError: they take more than `MAX_NAMES_BYTES`.
    """
    packed = [os.fsencode(name) for name in names]
    longest = max(map(len, packed), default=0)
    if longest * len(packed) > MAX_NAMES_BYTES:
        raise FileError(
            f"{len(packed):,} names, the longest of {longest:,} bytes, take more than {MAX_NAMES_BYTES >> 20:,} MiB.",
            "Shorten the longest names, or train on a part of the set.",
        )
    return np.array(packed, dtype=np.bytes_)

"""The images of a folder or a list as one table, and how the table is kept in the cache."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spherectl.data.indexes import Index, is_settled, load_index, save_index, state_of


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of a folder or a list.

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
        """The file of image `index`."""
        return self.folder / os.fsdecode(bytes(self.names[index]))


def checked(listing: Listing) -> Listing:
    """The same listing, if its parts belong together.

    Raises:
        ValueError: they do not.
    """
    names, labels, classes = listing.names, listing.labels, listing.class_names
    fits = 0 < len(names) == len(labels) and 0 <= labels.min() <= labels.max() < max(len(classes), 1)
    if not fits or not all(isinstance(name, str) for name in classes):
        raise ValueError("a listing whose parts do not belong together")
    return listing


def kept(key: str, root: Path) -> Listing | None:
    """The listing in the cache, if nothing that it was made from has changed since.

    Args:
        key: as `keep` was given it.
        root: the folder that its places are relative to.
    """

    def made(index: Index) -> Listing | None:
        facts, names, labels = index.facts, index.arrays["names"], torch.from_numpy(index.arrays["labels"])
        if any(state_of(root / name) != state for name, state in zip(facts["places"], facts["states"], strict=True)):
            return None
        return checked(Listing(root / facts["folder"], names, labels, tuple(facts["class_names"])))

    return load_index(key, {"names": np.bytes_, "labels": np.int64}, made)


def keep(key: str, listing: Listing, root: Path, states: Mapping[Path, list[int]], now_ns: int) -> None:
    """Keep a listing, unless it was made of something that has changed a moment before.

    Args:
        key: of the root and all else that decides what is listed.
        listing: what was found.
        root: a folder above all that was looked into.
        states: the `state_of` each folder or file before it was looked into.
        now_ns: a time before the first of these looks.
    """
    if all(is_settled(state, now_ns) for state in states.values()):
        facts = {
            "folder": str(listing.folder.relative_to(root)),
            "class_names": listing.class_names,
            "places": [str(place.relative_to(root)) for place in states],
            "states": list(states.values()),
        }
        save_index(key, Index(facts, {"names": listing.names, "labels": listing.labels.numpy()}))

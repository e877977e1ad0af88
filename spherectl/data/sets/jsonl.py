"""Lists of images in JSON lines (`spherectl.data.lists`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spherectl.data.sets import DatasetRecord, Say

if TYPE_CHECKING:
    from spherectl.data.listings import Listing
    from spherectl.data.names import Split


def read(place: Path, split: Split, _say: Say | None) -> Listing:
    """The images of one split."""
    from spherectl.data.lists import read_lists

    return read_lists(place, split)


def own_name(place: Path) -> str:
    """The list's own name, or its folder's where that only says which part it is."""
    from spherectl.data.lists import find_list
    from spherectl.data.names import split_of

    file = find_list(place, "train").resolve()
    return file.parent.name if split_of(file.stem) else file.stem


RECORD = DatasetRecord(
    name="jsonl",
    place="a list of images (.jsonl), or a folder with train.jsonl",
    licence="unknown",
    classes="class_id and class_name of each line, or none",
    read=read,
    own_name=own_name,
)

"""Folders of images: class folders, images alone, or train/ and val/ of either (`spherectl.data.folders`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spherectl.data.sets import DatasetRecord, Say

if TYPE_CHECKING:
    from spherectl.data.listings import Listing
    from spherectl.data.names import Split


def find(folder: Path) -> Path | None:
    """The folder itself, if it is such a set as a whole."""
    from spherectl.data.folders import holds_images

    return folder if holds_images(folder) else None


def read(place: Path, split: Split, _say: Say | None) -> Listing:
    """The images of one split."""
    from spherectl.data.folders import list_images

    return list_images(place, split)


RECORD = DatasetRecord(
    name="folder",
    place="a folder",
    licence="unknown",
    classes="its sub-folders, by sorted name; none if the images lie in it directly",
    find=find,
    read=read,
    own_name=lambda place: place.resolve().name,
)

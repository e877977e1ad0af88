"""ImageNet (ILSVRC 2012): 1000 class folders called by WordNet's numbers, which get ImageNet's words."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from spherectl.data.sets import DatasetRecord, Say, folder, read_class_names

if TYPE_CHECKING:
    from spherectl.data.listings import Listing
    from spherectl.data.names import Split


def read(place: Path, split: Split, say: Say | None) -> Listing:
    """The images of one split; class folders other than ImageNet's 1000 keep their names."""
    listing = folder.read(place, split, say)
    names = listing.class_names
    if (len(names), names[:1], names[-1:]) != (1000, ("n01440764",), ("n15075141",)):
        return listing
    return dataclasses.replace(listing, class_names=RECORD.class_names)


RECORD = DatasetRecord(
    name="imagenet",
    place="a folder, as above",
    licence="non-commercial research and education (ImageNet terms of access)",
    class_names=read_class_names("imagenet"),
    called=r"imagenet|ilsvrc",
    train_images=1_281_167,
    find=folder.find,
    read=read,
)

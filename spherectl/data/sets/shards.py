"""Tar shards in WebDataset's layout (`spherectl.data.shards`), on this machine or on a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spherectl.data.sets import DatasetRecord, Say
from spherectl.files import is_folder

if TYPE_CHECKING:
    from spherectl.data.names import Split
    from spherectl.data.shards import ShardIndex


def read(place: Path, split: Split, say: Say | None) -> ShardIndex:
    """The images of one split."""
    from spherectl.data.shards import open_shards

    return open_shards(place, split, say)


def own_name(place: Path) -> str:
    """The folder that the tars lie in."""
    return (place if is_folder(place) else place.parent).resolve().name


RECORD = DatasetRecord(
    name="shards",
    place="a folder or pattern of tars, one tar, or the https address of an index",
    licence="unknown",
    classes="KEY.cls or KEY.json, or none",
    addresses=True,
    read=read,
    own_name=own_name,
)

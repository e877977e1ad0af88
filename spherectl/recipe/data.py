"""The table [data]: which images, and how they are fitted to the model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from spherectl.recipe.limits import MAX_WORKERS, Text
from spherectl.tables import Spec

# Where images come from: the first three are layouts of people's own images, the others data sets of that name.
DataKind = Literal[
    "folder", "jsonl", "shards", "fashion-mnist", "emoji", "cifar10", "flowers102", "animal-faces", "imagenet"
]  # fmt: skip


class DataSpec(Spec):
    """The images and how they are fitted to the model."""

    kind: DataKind = "folder"
    # A path, for shards also a pattern or an https address; None: --data, the settings' data folder, or where the
    # system keeps the set.
    root: Text | None = None
    # "adm" crops too, but halves with a box filter first: for images much larger than a model of 64 px or less.
    fit: Literal["crop", "pad", "adm"] = "crop"
    flip: bool = True
    channels: Literal["rgb", "grey"] = "rgb"
    workers: Annotated[int, Field(ge=0, le=MAX_WORKERS)] | Literal["auto"] = "auto"

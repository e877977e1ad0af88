"""The table [data]: which images, and how they are fitted to the model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from spherectl.data.sets import records
from spherectl.recipe.limits import MAX_WORKERS, Text
from spherectl.shown import quoted
from spherectl.tables import Spec


def _check_kind(value: object) -> object:
    names = list(records())
    if value not in names:
        raise ValueError(f"expected {', '.join(names[:-1])} or {names[-1]}, got {quoted(value)}")
    return value


# The name of a record in `spherectl.data.sets`.
DataKind = Annotated[str, BeforeValidator(_check_kind)]


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

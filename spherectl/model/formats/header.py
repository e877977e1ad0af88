"""What our files say of themselves: JSON under `spherectl` in the header of a safetensors file.

It is read without torch, and checked before anything is made of the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, PrivateAttr, model_validator

from spherectl.checks import MAX_GUIDANCE, MAX_STEPS
from spherectl.documents import parse_table
from spherectl.errors import FileError, UsageError
from spherectl.recipe import MAX_CLASSES, MAX_COUNT, MAX_IMAGE_SIZE, MAX_WEIGHT, Recipe, parse
from spherectl.registry import SPHERE, of_header
from spherectl.safetensors_header import MAX_HEADER, Contents, safetensors_header
from spherectl.shown import quoted
from spherectl.validation import validated

FORMAT = 1
ARCHITECTURE = SPHERE.header_name
HEADER_KEY = "spherectl"

MAX_NAME = 200  # characters of a class name
MAX_ENTRIES = 1_000  # of a table or a list that people read, such as scores
MAX_TEXT = 10_000  # characters of a licence, a command, a data set's name

Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Angle = Annotated[float, Field(ge=0, lt=90)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]


class Header(BaseModel):
    """What all our files may say of themselves; keys that are not here are a newer version's, or another kind's."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)
    _table: dict[str, Any] = PrivateAttr(default_factory=dict)

    format: int
    architecture: Text
    name: Text = ""
    class_names: Annotated[list[Name], Field(max_length=MAX_CLASSES), FailFast()] = []
    image_size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)] | None = None
    images_seen: Count | None = None
    channels: Literal["rgb", "grey"] = "rgb"
    data: Text = ""
    data_licence: Text | None = None
    licence: Text = ""
    command: Text = ""
    versions: Annotated[dict[str, Text], Field(max_length=MAX_ENTRIES)] = {}

    def model_post_init(self, context: Any, /) -> None:
        """Keep the table, which `header_of` hands in."""
        self._table = context or {}

    @property
    def table(self) -> dict[str, Any]:
        """The header as it stands in the file, keys unknown to the schema too."""
        return self._table


class Score(BaseModel):
    """One number that was measured."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    metric: Text
    value: float
    command: Text = ""


class Published(BaseModel):
    """What a published checkpoint had beside its weights."""

    model_config = ConfigDict(strict=True, extra="allow")

    cfg: dict[str, Any]
    epoch: Count
    scalars: Annotated[dict[str, Annotated[list[str], FailFast()]], Field(max_length=MAX_ENTRIES)]


class Restoring(BaseModel):
    """How a model restores images of one measurement best; what is not given is as for any model."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    weight: Annotated[float, Field(alias="lambda", ge=0, le=MAX_WEIGHT)] = 0.0
    noise_deg: Angle = 0.0
    rounds: Steps = 1


class Changing(BaseModel):
    """How a model changes classes best; what is not given is as for any model."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    noise_deg: Angle = 0.0
    guidance: Annotated[float, Field(ge=1, le=MAX_GUIDANCE)] = 1.0
    steps: Steps = 1


class Editing(BaseModel):
    """What a model's own editing settings are."""

    model_config = ConfigDict(strict=True, extra="allow")

    restore: Annotated[dict[str, Restoring], Field(max_length=MAX_ENTRIES)] = {}
    to_class: Changing = Changing()


class ModelHeader(Header):
    """What a model file says of itself: networks of a recipe."""

    recipe: dict[str, Any]
    weights: Literal["ema", "raw"] = "raw"
    scores: Annotated[list[Score], Field(max_length=MAX_ENTRIES), FailFast()] = []
    hours: float | None = None
    parent: Text = ""
    editing: Editing = Editing()
    export: dict[str, Any] = {}
    source: dict[str, Any] = {}
    published: Published | None = None
    _parsed: Recipe = PrivateAttr()

    @property
    def parsed_recipe(self) -> Recipe:
        """The recipe, checked."""
        return self._parsed

    @model_validator(mode="after")
    def _check(self) -> ModelHeader:
        try:
            self._parsed = parse(self.recipe, "recipe")
        except UsageError as error:
            raise ValueError(error.message.rstrip(".")) from None
        classes = self._parsed.model.num_classes
        if classes == "auto":
            raise ValueError("recipe: model.num_classes: expected a whole number, got 'auto'")
        if self.class_names and classes != len(self.class_names):
            raise ValueError(f"class_names: {len(self.class_names):,} names for {classes:,} classes")
        return self


def read_header(path: Path, schema: type[Header] | None = None, *, max_bytes: int = MAX_HEADER) -> dict[str, Any]:
    """The `spherectl` header of one of our files; its tensors are not read.

    Args:
        path: of the file.
        schema: what the header must be; None: `ModelHeader` if it says that it is a model, else `Header`.
        max_bytes: that the file's header may have.

    Returns:
        The header as it stands in the file, keys unknown to the schema too.

    Raises:
        FileError: the file is missing or damaged, has no such header, or one that the schema refuses; or it is a model
            of a newer format.
    """
    return header_of(safetensors_header(path, max_bytes=max_bytes), path, schema).table


def header_of(found: Contents, path: Path, schema: type[Header] | None = None) -> Header:
    """The checked header of a file whose `Contents` are known; the arguments are as for `read_header`."""
    if HEADER_KEY not in found.metadata:
        raise FileError(f"{path} is not a model file: it has no spherectl header.", "Fetch it or copy it again.")
    what = f"The header of {path}"
    table = parse_table(found.metadata[HEADER_KEY], what)
    is_model = of_header(table.get("architecture")) is not None
    version = table.get("format")
    if is_model and type(version) is int and version != FORMAT:
        raise FileError(
            f"{path} is in model format {quoted(version)}; this version reads {FORMAT}.", "Update spherectl."
        )
    schema = schema or (ModelHeader if is_model else Header)
    return validated(schema, table, what, "Fetch it or copy it again.", context=table)

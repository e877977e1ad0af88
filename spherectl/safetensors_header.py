"""What a safetensors file says of itself, read without torch and checked before anything is made of it.

A file begins with the length of its header (8 bytes, little-endian) and the header, JSON: by name the type, shape and
bytes of each tensor, and under `__metadata__` a table of texts. In our files the text under `spherectl` is JSON again
and says what the file is. The tensors follow, one behind the other, without gaps.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, model_validator

from spherectl.checks import MAX_GUIDANCE, MAX_STEPS
from spherectl.documents import parse_table
from spherectl.errors import FileError, UsageError
from spherectl.files import open_regular
from spherectl.recipe import MAX_CLASSES, MAX_COUNT, MAX_IMAGE_SIZE, MAX_WEIGHT, parse
from spherectl.shown import listed, quoted
from spherectl.tables import describe

FORMAT = 1
ARCHITECTURE = "sphere-encoder"
BASELINES = ("vae", "diffusion")  # the kinds of `model.kind` that files and architectures are named after
HEADER_KEY = "spherectl"

# Ours have 1 to 200 kB. A larger one is no model's; lists of files may ask for more (`most_bytes`).
MAX_HEADER = 8 << 20
MAX_DIMENSIONS = 8  # of a tensor; ours have at most 4
MAX_NAME = 200  # characters of a class name
MAX_ENTRIES = 1_000  # of a table or a list that people read, such as scores
MAX_TEXT = 10_000  # characters of a licence, a command, a data set's name

# Bits of a number, by safetensors' names of types.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class TensorInfo(NamedTuple):
    """Where a tensor is.

    Attributes:
        dtype: safetensors' name of its type, a key of `BITS`.
        shape: of it.
        start, stop: first byte in the file, and the one after its last.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Contents:
    """What is in a safetensors file.

    Attributes:
        metadata: its own texts, by key.
        tensors: by name, in the order of their bytes; together they are the rest of the file.
    """

    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]


def safetensors_header(path: Path, *, most_bytes: int = MAX_HEADER) -> Contents:
    """What is in a safetensors file; every tensor is held against the file's bytes, none is read.

    Args:
        path: of it.
        most_bytes: that its header may have.

    Raises:
        FileError: missing, not a regular file, or not a whole safetensors file.
    """
    with opened(path) as file:
        return contents(file, path, most_bytes=most_bytes)


def opened(path: Path) -> BufferedReader:
    """A file opened for reading, at its beginning.

    Raises:
        FileError: missing, or not a regular file.
    """
    try:
        return open_regular(path)
    except FileNotFoundError:
        raise FileError(f"There is no file {path}.") from None
    except OSError as error:
        raise FileError(f"Cannot read {path}: {error.strerror}.") from None


def contents(file: BufferedReader, path: Path, *, most_bytes: int = MAX_HEADER) -> Contents:
    """`safetensors_header` of an open file, which is left behind its header; `path` is for errors."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 + length:  # also what is no safetensors file at all
        raise _damaged(path, "it is cut short, or of another kind")
    if length > most_bytes:
        raise FileError(f"{path}: its header has {length:,} bytes, at most {most_bytes:,} are read.")
    table = parse_table(file.read(length), f"The header of {path}")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _damaged(path, "__metadata__ in its header is not a table of texts")
    infos = {name: _tensor_info(path, name, entry, 8 + length) for name, entry in table.items()}
    tensors = dict(sorted(infos.items(), key=lambda item: item[1].start))
    end = 8 + length
    for name, info in tensors.items():  # one behind the other: so all together need the memory of the file, no more
        if info.start != end:
            raise _damaged(path, f"the bytes of {quoted(name)} do not follow those before")
        end = info.stop
    if end != size:
        raise _damaged(path, f"its tensors have {end - 8 - length:,} bytes, the file {size - 8 - length:,}")
    return Contents(metadata, tensors)


def _tensor_info(path: Path, name: str, entry: Any, base: int) -> TensorInfo:
    """One entry of a header, whose offsets count from `base`."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, stop]} if (
            dtype in BITS
            and len(shape) <= MAX_DIMENSIONS
            and all(type(number) is int and 0 <= number < 2**63 for number in (*shape, start, stop))
            and (stop - start) * 8 == math.prod(shape) * BITS[dtype]
        ):
            return TensorInfo(dtype, tuple(shape), base + start, base + stop)
    raise _damaged(path, f"type, shape and bytes of {quoted(name)} do not fit together")


def _damaged(path: Path, reason: str) -> FileError:
    return FileError(f"{path} is not a whole safetensors file: {reason}.", "Fetch it or copy it again.")


Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Angle = Annotated[float, Field(ge=0, lt=90)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]


class Header(BaseModel):
    """What all our files may say of themselves; keys that are not here are a newer version's, or another kind's."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)

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

    @model_validator(mode="after")
    def _check(self) -> ModelHeader:
        try:
            classes = parse(self.recipe, "recipe").model.num_classes
        except UsageError as error:
            raise ValueError(error.message.rstrip(".")) from None
        if classes == "auto":
            raise ValueError("recipe: model.num_classes: expected a whole number, got 'auto'")
        if self.class_names and classes != len(self.class_names):
            raise ValueError(f"class_names: {len(self.class_names):,} names for {classes:,} classes")
        return self


def read_header(path: Path, schema: type[Header] | None = None, *, most_bytes: int = MAX_HEADER) -> dict[str, Any]:
    """The `spherectl` header of one of our files; its tensors are not read.

    Args:
        path: of it.
        schema: what it has to be; None: `ModelHeader` if it says that it is a model, else `Header`.
        most_bytes: that the file's header may have.

    Returns:
        The header as it stands in the file, keys unknown to the schema too.

    Raises:
        FileError: missing, damaged, without such a header, or with one that is not as the schema says; a model of a
            newer format.
    """
    return header_of(safetensors_header(path, most_bytes=most_bytes), path, schema)


def header_of(found: Contents, path: Path, schema: type[Header] | None = None) -> dict[str, Any]:
    """`read_header` of a file whose `Contents` are known."""
    if HEADER_KEY not in found.metadata:
        raise FileError(f"{path} is not a model file: it has no spherectl header.", "Fetch it or copy it again.")
    what = f"The header of {path}"
    table = parse_table(found.metadata[HEADER_KEY], what)
    is_model = table.get("architecture") in (ARCHITECTURE, *BASELINES)
    version = table.get("format")
    if is_model and type(version) is int and version != FORMAT:
        raise FileError(
            f"{path} is in model format {quoted(version)}; this version reads {FORMAT}.", "Update spherectl."
        )
    schema = schema or (ModelHeader if is_model else Header)
    try:
        schema.model_validate(table)
    except ValidationError as error:
        raise FileError(f"{what}: {listed(describe(error, schema), 3, '; ')}.", "Fetch it or copy it again.") from None
    return table

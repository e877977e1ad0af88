"""What decides the pixels of a generated image, and how to make it again from that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor

from spherectl import api
from spherectl.checks import MAX_BATCH, MAX_SEED
from spherectl.errors import FileError, UsageError
from spherectl.model import attention
from spherectl.model.devices import Precision
from spherectl.recipe import Positive, SampleSpec
from spherectl.shown import listed, quoted, shortened
from spherectl.validation import validated
from spherectl.versions import versions

FORMAT = 1

# Images that are made again together, where an image does not depend on the others.
REMAKE_BATCH = 64

MAX_IMAGES = 65_536  # in one file: a grid of 256 x 256
MAX_PIXELS = 2**26  # in one file: so many images of 32 px
MAX_CLASSES = 2**31  # far above any model's: which it has is compared when it is loaded
MAX_TEXT = 1_000  # characters of a name or a version
MAX_VERSIONS = 100  # packages named

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Image = Annotated[int, Field(ge=0, lt=2**32)]
Class = Annotated[int, Field(ge=0, lt=MAX_CLASSES)]
Chunk = tuple[  # images computed together, place among them
    Annotated[int, Field(gt=0, le=MAX_BATCH)], Annotated[int, Field(ge=0)]
]


class Provenance(SampleSpec):
    """The table that an image carries; the keys of a model's [sample] table and these.

    Attributes:
        format: of the table.
        model, model_sha256, weights: what generated it; names alone, no paths.
        seed: of the run.
        index: the image's number in the run; for a grid a list, as `class_` and `chunk`.
        class_: its class, the null class being the number of classes; None for unconditional models.
        columns: of a grid; None: nearly a square.
        dtype, backend, versions: on which arithmetic the last bits depend.
        chunk: present where an image may depend on how many are computed with it.
    """

    # Strict: `true` is not 1. There is no harm in the name `model_sha256`.
    model_config = ConfigDict(protected_namespaces=(), strict=True)

    format: Literal[1]
    model: Text
    model_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
    weights: Literal["ema", "raw"]
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    index: Image | Annotated[list[Image], Field(min_length=2, max_length=MAX_IMAGES)]
    class_: Class | Annotated[list[Class], Field(max_length=MAX_IMAGES)] | None = Field(alias="class")
    columns: Annotated[Positive, Field(le=MAX_IMAGES)] | None = None
    dtype: Precision
    backend: Text
    versions: Annotated[dict[Text, Text], Field(max_length=MAX_VERSIONS)]
    chunk: Chunk | Annotated[list[Chunk], Field(max_length=MAX_IMAGES)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Provenance:
        if missing := {"steps", "guidance"} - self.model_fields_set:
            raise ValueError(f"{listed(sorted(missing))} is missing")
        lists = {isinstance(value, list) for value in (self.index, self.class_, self.chunk) if value is not None}
        if len(lists) > 1 or any(
            len(many) != len(self.indices) for many in (self.classes, self.chunks) if many is not None
        ):
            raise ValueError("index, class and chunk do not fit together")
        if any(place >= size for size, place in self.chunks or ()):
            raise ValueError("chunk: a place lies outside")
        # A run computes each chunk once, and fills its last one up: who writes other numbers only keeps us busy.
        if self.chunks and sum(size for _, _, size, _ in runs_of(self.chunks)) > len(self.indices) + MAX_BATCH:
            raise ValueError("chunk: chunks of more images than there are")
        return self

    @property
    def indices(self) -> list[int]:
        """Numbers of the images."""
        return [self.index] if isinstance(self.index, int) else self.index

    @property
    def classes(self) -> list[int] | None:
        """Classes of the images."""
        return [self.class_] if isinstance(self.class_, int) else self.class_

    @property
    def chunks(self) -> list[Chunk] | None:
        """For each image, how many were computed together, and its place among them."""
        return [self.chunk] if isinstance(self.chunk, tuple) else self.chunk

    def was_compiled_on(self, device: torch.device) -> bool:
        """Whether a compiled model generated it on such a device, so that only a compiled one can again."""
        return self.backend.startswith(f"{device.type} ") and self.backend.endswith(" compiled")

    @property
    def settings(self) -> SampleSpec:
        """Steps, guidance, noise."""
        return SampleSpec(**{key: getattr(self, key) for key in SampleSpec.model_fields})


def describe(
    model: api.Model,
    settings: SampleSpec,
    *,
    seed: int,
    indices: Tensor,
    labels: Tensor | None,
    batch: int,
    count: int,
    columns: int | None = None,
) -> dict[str, Any]:
    """Provenance of one image, or of a grid of several.

    Args:
        model: what generated it.
        settings: from `api.sample_settings`.
        seed: of the run.
        indices: (n,) image numbers; one for a single image.
        labels: (n,) classes or None.
        batch: images computed together, at most.
        count: images of the run, which may leave its last batch shorter.
        columns: of the grid, if it is not the default.

    Returns:
        A JSON-able table: no paths, host, time or command line.
    """
    numbers = indices.tolist()
    single = len(numbers) == 1
    table: dict[str, Any] = {
        "format": FORMAT,
        "model": model.name,
        "model_sha256": model.sha256,
        "weights": model.weights,
        "seed": seed,
        "index": numbers[0] if single else numbers,
        "class": None if labels is None else (int(labels[0]) if single else labels.tolist()),
        **settings.model_dump(),
        "dtype": model.precision,
        **_arithmetic(model),
    }
    if columns is not None and not single:
        table["columns"] = columns
    if not is_invariant(model):
        chunks = _chunks(numbers, batch, count, filled=model.compiled)
        table["chunk"] = chunks[0] if single else chunks
    return table


def describe_edit(model: api.Model, edit: str, inputs: list[str], **settings: Any) -> dict[str, Any]:
    """Provenance of an image that was made of others.

    Args:
        model: what made it.
        edit: what was done, as in "harmonize".
        inputs: SHA-256 of the images' files.
        settings: what else decides the pixels, JSON-able; no paths.

    Returns:
        A JSON-able table.
    """
    return {
        "format": FORMAT,
        "edit": edit,
        "inputs": inputs,
        "model": model.name,
        "model_sha256": model.sha256,
        "weights": model.weights,
        **settings,
        "dtype": model.precision,
        **_arithmetic(model),
    }


def is_invariant(model: api.Model) -> bool:
    """Whether an image's bits do not depend on the images computed with it: on a CPU in float32, or on the kernels.

    What torch.compile makes for one batch size promises nothing of the kind.
    """
    if model.compiled or model.device.type != "cpu":
        return False
    on_kernels = model.precision in ("bfloat16", "int8") and model.network.takes_kernels(model.device)
    return model.precision == "float32" or on_kernels


def _arithmetic(model: api.Model) -> dict[str, Any]:
    """Device and attention, as in "cpu sdpa", and versions: what the same image made elsewhere may differ by.

    A compiled model is told by a third word, "cuda sdpa compiled".
    """
    asked: str = model.recipe.model.attention
    trunk: Any = model.network.encoder
    if model.precision in ("bfloat16", "int8") and model.network.takes_kernels(model.device):
        asked = "kernels"
    elif model.compiled:
        asked = f"{trunk.blocks[0].attn.backend} compiled"
    elif asked == "auto":
        asked = attention.choose(model.device, model.dtype, trunk.grid**2, trunk.width // trunk.heads, training=False)
    return {"backend": f"{model.device.type} {asked}", "versions": versions("spherectl", "torch")}


def read(table: dict[str, Any]) -> Provenance:
    """The provenance in an image's file, checked: it comes from anywhere.

    Raises:
        FileError: of another format, incomplete, or not as `describe` writes it.
    """
    version = table.get("format")
    if type(version) is not int or version != FORMAT:
        raise FileError(f"The image's provenance is of format {quoted(version)}; this version reads {FORMAT}.")
    if "edit" in table:
        edit = table["edit"] if isinstance(table["edit"], str) else quoted(table["edit"])
        raise UsageError(
            f"The image was made of others ({shortened(edit)}), which its provenance names by hash alone.",
            "Only images generated from noise can be made again.",
        )
    what = "The image's provenance is not one that this version can follow"
    return validated(Provenance, table, what, "Was it changed, or made by a newer spherectl?", as_json=True)


def remake(model: api.Model, made: Provenance) -> tuple[Tensor, dict[str, Any]]:
    """The images a provenance describes, computed in the same chunks where that matters.

    Args:
        model: the one that generated them.
        made: from an image's file, by `read`.

    Returns:
        (n, 3, H, W) float32 in [0, 1], and their own provenance: as it was, but for today's backend and versions.

    Raises:
        UsageError: the model is another one, or has no such classes; or there are more than `MAX_PIXELS`.
    """
    if made.model_sha256 != model.sha256:
        raise UsageError(
            f"The image was generated by {made.model} ({made.model_sha256[:12]}), "
            f"not by {model.name} ({model.sha256[:12]}).",
            "Name the model file, run or folder that generated it with --model.",
        )
    if (made.classes is None) != (model.num_classes == 0) or max(made.classes or [0]) > model.num_classes:
        raise UsageError(f"The image's provenance names classes that {model.name} does not have.")
    numbers, classes, side = made.indices, made.classes, model.recipe.model.image_size
    if len(numbers) * side**2 > MAX_PIXELS:
        raise UsageError(
            f"The image's provenance names {len(numbers):,} images of {side} px; "
            f"at most {MAX_PIXELS:,} pixels are made again at once.",
            "Make them with `spherectl sample --seed` into a folder.",
        )
    # On arithmetic that does not ask who is computed together, the chunks of another machine's are none of ours.
    asked = None if is_invariant(model) else made.chunks
    chunks = asked or _chunks(range(len(numbers)), REMAKE_BATCH, len(numbers))
    images = torch.empty(len(numbers), 3, side, side, dtype=torch.promote_types(model.dtype, torch.float32))
    for first, taken, size, place in runs_of(chunks):
        rows = torch.full((size,), numbers[first])
        rows[place : place + taken] = torch.tensor(numbers[first : first + taken])
        labels = None
        if classes is not None:
            labels = torch.full((size,), classes[first])
            labels[place : place + taken] = torch.tensor(classes[first : first + taken])
        sampled = api.sample_indices(model, rows, labels, made.settings, made.seed)
        images[first : first + taken] = sampled[place : place + taken]
    table = made.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"chunk"})
    if not is_invariant(model):
        table["chunk"] = chunks[0] if isinstance(made.index, int) else chunks
    return images, {**table, **_arithmetic(model)}


def runs_of(chunks: Sequence[Chunk]) -> Iterator[tuple[int, int, int, int]]:
    """Stretches of images that were computed together: the first one's place in the list, how many, chunk, place in it.

    Such a stretch is computed at once; places in its chunk that nobody asks for are filled with its first image.
    """
    first = 0
    while first < len(chunks):
        size, place = chunks[first]
        taken = 1
        while first + taken < len(chunks) and chunks[first + taken] == (size, place + taken):
            taken += 1
        yield first, taken, size, place
        first += taken


def _chunks(numbers: Iterable[int], batch: int, count: int, *, filled: bool = False) -> list[Chunk]:
    """For each image number of a run of `count`, how many are computed together, and its place among them.

    The last batch is shorter, unless it is filled up.
    """
    return [(min(batch, count if filled else count - n // batch * batch), n % batch) for n in numbers]

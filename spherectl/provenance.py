"""What decides the pixels of a generated picture, and how to make it again from that."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import spherectl
from spherectl import api
from spherectl.errors import FileError, UsageError
from spherectl.model import attention
from spherectl.recipe import SampleSpec

FORMAT = 1
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

# A chunk is (images computed together, place in it). In float32 on a CPU an image does not depend on it.
Chunk = tuple[int, int]


def describe(
    model: api.Model, settings: SampleSpec, *, seed: int, indices: Tensor, labels: Tensor | None, batch: int, count: int
) -> dict[str, Any]:
    """Provenance of one picture, or of a grid of several.

    Args:
        model: what drew it.
        settings: steps, guidance, noise.
        seed: of the run.
        indices: (n,) image numbers; one for a single picture.
        labels: (n,) classes or None.
        batch: images computed together, at most.
        count: images of the run, which may leave its last batch shorter.

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
        "dtype": DTYPES[model.dtype],
        "backend": backend(model),
        "versions": {"spherectl": spherectl.__version__, "torch": torch.__version__},
    }
    if not is_invariant(model):
        chunks = [(min(batch, count - n // batch * batch), n % batch) for n in numbers]
        table["chunk"] = chunks[0] if single else chunks
    return table


def is_invariant(model: api.Model) -> bool:
    """Whether an image's bits do not depend on the images computed with it: float32 on a CPU."""
    return model.dtype == torch.float32 and model.device.type == "cpu"


def backend(model: api.Model) -> str:
    """Device and attention, as in "cpu sdpa"."""
    trunk = model.network.encoder
    chosen = trunk.blocks[0].attn.backend or attention.choose(
        model.device, model.dtype, trunk.grid**2, trunk.width // trunk.heads, training=False
    )
    return f"{model.device.type} {chosen}"


def check(table: dict[str, Any]) -> None:
    """Refuse a provenance that this version cannot follow.

    Raises:
        FileError: of another format, or incomplete.
    """
    if table.get("format") != FORMAT:
        raise FileError(f"The picture's provenance is of format {table.get('format')!r}; this version reads {FORMAT}.")
    needed = {"model", "model_sha256", "seed", "index", "class", "dtype", *SampleSpec.model_fields}
    if missing := sorted(needed - table.keys()):
        raise FileError(f"The picture's provenance lacks {', '.join(missing)}, so it cannot be made again.")


def check_model(table: dict[str, Any], model: api.Model) -> None:
    """Refuse to remake a picture with another model.

    Raises:
        UsageError: the hashes differ.
    """
    if table["model_sha256"] != model.sha256:
        raise UsageError(
            f"The picture was drawn by {table['model']} ({table['model_sha256'][:12]}), not by {model.name} ({model.sha256[:12]}).",
            "Name the model file, run or folder that drew it with --model.",
        )


def remake(model: api.Model, table: dict[str, Any]) -> Tensor:
    """The pictures a provenance describes, computed in the same chunks where that matters.

    Args:
        model: the one that drew them (`check_model`).
        table: from a picture's file.

    Returns:
        (n, 3, H, W) float32 in [0, 1].
    """
    settings = SampleSpec(**{key: table[key] for key in SampleSpec.model_fields})
    single = isinstance(table["index"], int)
    numbers = [table["index"]] if single else table["index"]
    classes = None if table["class"] is None else ([table["class"]] if single else table["class"])
    chunks = [(1, 0)] * len(numbers) if "chunk" not in table else ([table["chunk"]] if single else table["chunk"])
    images: list[Tensor] = []
    while len(images) < len(numbers):
        # A run of pictures from one chunk is computed at once; places nobody asks for are filled with its first.
        first = len(images)
        size, place = chunks[first]
        taken = 1
        while first + taken < len(numbers) and list(chunks[first + taken]) == [size, place + taken]:
            taken += 1
        rows = torch.full((size,), numbers[first])
        rows[place : place + taken] = torch.tensor(numbers[first : first + taken])
        labels = None
        if classes is not None:
            labels = torch.full((size,), classes[first])
            labels[place : place + taken] = torch.tensor(classes[first : first + taken])
        drawn = api.sample_indices(model, rows, labels, settings, table["seed"])
        images += list(drawn[place : place + taken])
    return torch.stack(images)

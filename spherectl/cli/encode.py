"""`spherectl encode`: images to points on the sphere, in a file; and `sample --latents`, which is the way back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spherectl.cli import console, image_files, models, options
from spherectl.errors import UsageError
from spherectl.shown import printable

if TYPE_CHECKING:
    from torch import Tensor

    from spherectl.api import Model


def encode(
    images: Annotated[list[str], typer.Argument(metavar="IMAGES...", help="Images, folders, or patterns.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="A .safetensors file; is replaced.")],
    class_: Annotated[
        str | None,
        typer.Option("--class", metavar="CLASS", help="Of all images; none is the null class.", show_default="none"),
    ] = None,
    model: options.Model = None,
    batch: options.Batch = 64,
    dtype: options.Dtype = options.DtypeName.AUTO,
    weights: options.Weights = options.WeightsName.EMA,
    device: options.Device = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Encode images of any size: a point on the sphere each, beside their names and the model's hash.

    Of a folder, hidden files are no images, and those that cannot be read are left out with a word each.

    Examples:
    spherectl encode photos/*.png --out latents.safetensors

    spherectl sample --latents latents.safetensors --out again/
    """
    import torch

    from spherectl.data.transforms import to_float
    from spherectl.editing.latents import write_latents
    from spherectl.output import check_target
    from spherectl.settings import load_settings

    if out.suffix != ".safetensors":
        raise UsageError(f"Latents are written to a .safetensors file; got {out}.")
    check_target(out.with_suffix(".npz"))
    given = image_files.find(images)
    files = given.files
    loaded = models.load(model, load_settings(), dtype=dtype, weights=weights, device=device, threads=threads)
    labels = loaded.labels(None if class_ is None else [class_] * len(files), len(files))

    readable = image_files.Readable(given, loaded)

    with console.progress("encoding", len(files), "images") as bar:

        def batches() -> Iterator[tuple[list[int], Tensor]]:
            for start in range(0, len(files), batch):
                stop = min(start + batch, len(files))
                fitted = readable(range(start, stop))
                if numbers := list(fitted):
                    chosen = None if labels is None else labels[numbers]
                    yield numbers, loaded.encode(to_float(torch.stack(list(fitted.values()))), chosen)
                bar(stop)
            readable.check()

        write_latents(out, loaded, [printable(str(path)) for path in files], labels, batches())
    count = len(files) - readable.left_out
    if as_json:
        facts = {"images": count, "left_out": readable.left_out, "model": loaded.name, "sha256": loaded.sha256}
        console.show_json({"out": str(out), **facts})
    else:
        console.show_file(out)


def decode(
    file: Path,
    model: Model,
    *,
    class_: list[str] | None,
    steps: int | None,
    batch: int,
    out: Path | None,
    as_json: bool,
    with_provenance: bool,
) -> None:
    """Decode what a file of latents holds.

    Args:
        file: from `encode`.
        model: that encoded them.
        class_: to decode under: one for all, or one for each image; None: those in the file.
        steps: None or 1 decodes; each further one is a round without noise.
        batch: images at once.
        out: checked by `output.check_target`; None: a new name.
        as_json: tell the result as JSON.
        with_provenance: say in each PNG what it was made of.

    Raises:
        UsageError: another model than the one that encoded them, or classes that do not fit.
        FileError: a damaged file.
    """
    import torch

    from spherectl import api
    from spherectl.editing.latents import decoded, open_latents
    from spherectl.fetch import file_hash
    from spherectl.output import write_named
    from spherectl.provenance import describe_edit

    with open_latents(file) as latents:
        latents.check_model(model, file)
        count = len(latents)
        labels = latents.labels if class_ is None else api.spread_classes(model, count, class_)

        def about(indices: Tensor, chosen: Tensor | None, columns: int | None) -> dict[str, Any]:
            numbers = indices.tolist()
            facts: dict[str, Any] = {"index": numbers, "steps": steps or 1}
            facts |= {"class": None if chosen is None else chosen.tolist()}
            facts |= {} if columns is None else {"columns": columns}
            return describe_edit(model, "latents", [digest], **facts)

        digest = file_hash(file)

        def images_of() -> Iterator[api.Generated]:
            done = 0
            for images in decoded(latents, model, labels, steps=steps or 1, batch=batch):
                indices = torch.arange(done, done + len(images))
                yield api.Generated(images, None if labels is None else labels[indices], indices)
                done += len(images)
                bar(done)

        with console.progress("decoding", count, "images") as bar:
            shown = about if with_provenance else None
            target, files = write_named(out, f"{file.stem}-decoded", images_of(), count, shown)
    if as_json:
        console.show_json({"out": str(target), "files": files, "model": model.name, "sha256": model.sha256})
    else:
        console.show_file(target)

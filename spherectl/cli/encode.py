"""`spherectl encode`: pictures to points on the sphere, in a file; and `sample --latents`, which is the way back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spherectl.cli import console, options, pictures
from spherectl.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from spherectl.settings import Settings


def encode(
    images: Annotated[list[str], typer.Argument(metavar="IMAGES...", help="Pictures, folders, or patterns.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="A .safetensors file; is replaced.")],
    class_: Annotated[
        str | None,
        typer.Option("--class", metavar="CLASS", help="Of all pictures; none is the null class.", show_default="none"),
    ] = None,
    model: options.Model = None,
    batch: options.Batch = 64,
    dtype: options.Dtype = options.DtypeName.AUTO,
    weights: options.Weights = options.WeightsName.EMA,
    device: options.Device = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Encode pictures of any size: a point on the sphere each, beside their names and the model's hash.

    Examples:
    spherectl encode photos/*.png --out latents.safetensors

    spherectl sample --latents latents.safetensors --out again/
    """
    import torch

    from spherectl import api, zoo
    from spherectl.data.transforms import to_float
    from spherectl.editing.latents import write_latents
    from spherectl.output import check_target
    from spherectl.settings import load_settings

    if out.suffix != ".safetensors":
        raise UsageError(f"Latents are written to a .safetensors file; got {out}.")
    check_target(out.with_suffix(".npz"))
    files = pictures.find(images)
    settings = load_settings()
    if threads:
        torch.set_num_threads(threads)
    found = zoo.find_model(model, settings)
    console.say(found.reason)
    loaded = api.load_found(found, device=device or settings.device, dtype=dtype.value, weights_kind=weights.value)
    labels = loaded.labels(None if class_ is None else [class_] * len(files), len(files))

    with console.progress("encoding", len(files), "images") as bar:

        def batches() -> Iterator[Tensor]:
            told: set[str] = set()
            for start in range(0, len(files), batch):
                fitted = [pictures.read(path, loaded, told).pixels for path in files[start : start + batch]]
                chosen = None if labels is None else labels[start : start + batch]
                yield loaded.encode(to_float(torch.stack(fitted)), chosen)
                bar(start + len(fitted))

        write_latents(out, loaded, [str(path) for path in files], labels, batches())
    if as_json:
        console.show_json({"out": str(out), "images": len(files), "model": loaded.name, "sha256": loaded.sha256})
    else:
        console.show(str(out))


def decode(
    file: Path,
    model: str | None,
    settings: Settings,
    *,
    class_: list[str] | None,
    steps: int | None,
    batch: int,
    dtype: str,
    weights: str,
    device: str,
    out: Path | None,
    as_json: bool,
    with_provenance: bool,
) -> None:
    """Draw what a file of latents holds.

    Args:
        file: from `encode`.
        model: as --model takes it.
        settings: where models are.
        class_: to decode under: one for all, or one for each picture; None: those in the file.
        steps: None or 1 decodes; each further one is a round without noise.
        batch: pictures at once.
        dtype, weights, device: of the model.
        out: as for `sample`; None: a new name.
        as_json: tell the result as JSON.
        with_provenance: say in each PNG what it was made of.

    Raises:
        UsageError: another model than the one that encoded them, or classes that do not fit.
        FileError: a damaged file.
    """
    import torch

    from spherectl import api, zoo
    from spherectl.editing.latents import decoded, open_latents
    from spherectl.fetch import file_hash
    from spherectl.files import claimed
    from spherectl.output import check_target, collect, write_grid, write_pictures
    from spherectl.provenance import describe_edit

    check_target(out or Path("decoded.png"))
    found = zoo.find_model(model, settings)
    console.say(found.reason)
    loaded = api.load_found(found, device=device, dtype=dtype, weights_kind=weights)  # type: ignore[arg-type]
    with open_latents(file) as latents:
        latents.check_model(loaded, file)
        count = len(latents)
        labels = latents.labels if class_ is None else api.spread_classes(loaded, count, class_)

        def about(indices: Tensor, chosen: Tensor | None, columns: int | None) -> dict[str, Any]:
            numbers = indices.tolist()
            facts: dict[str, Any] = {"index": numbers, "steps": steps or 1}
            facts |= {"class": None if chosen is None else chosen.tolist()}
            facts |= {} if columns is None else {"columns": columns}
            return describe_edit(loaded, "latents", [digest], **facts)

        digest = file_hash(file)

        def drawn() -> Iterator[api.Generated]:
            done = 0
            for images in decoded(latents, loaded, labels, steps=steps or 1, batch=batch):
                indices = torch.arange(done, done + len(images))
                yield api.Generated(images, None if labels is None else labels[indices], indices)
                done += len(images)
                bar(done)

        with console.progress("decoding", count, "images") as bar:
            if out is not None:
                target, files = out, write_pictures(out, drawn(), count, about if with_provenance else None)
            else:
                everything, files = collect(drawn()), 1
                with claimed(f"{file.stem}-decoded") as target:
                    write_grid(target, everything, about if with_provenance else None)
    if as_json:
        console.show_json({"out": str(target), "files": files, "model": loaded.name, "sha256": loaded.sha256})
    else:
        console.show(str(target))

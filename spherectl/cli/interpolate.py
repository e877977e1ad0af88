"""`spherectl interpolate`: between images, or between samples; a strip, a grid or an animation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spherectl.cli import console, image_files, models, options
from spherectl.errors import UsageError
from spherectl.shown import quoted

if TYPE_CHECKING:
    from torch import Tensor

    from spherectl.api import Model

FRAMES, SIDE = 9, 5  # of a strip, and along each side of a grid
ANIMATED = (".webp", ".gif")
MAX_PIXELS = 2**26  # of all frames together: 1,024 of 256 px
MAX_FPS = 1_000.0  # a frame lasts at least a millisecond in both formats


def interpolate(
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[A B [C D]]", help="Two ends, or four corners row by row.")
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds",
            metavar="LIST",
            help="Samples by seed in place of images: two, or four.",
            show_default="0,1",
        ),
    ] = None,
    class_: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="CLASS",
            help="One for all, or one for each end.",
            show_default="none for images; the first for seeds",
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(
            "--frames",
            min=2,
            max=options.MAX_FRAMES,
            help="Of the strip, or along each side.",
            show_default="9, or 5",
        ),
    ] = None,
    lerp: Annotated[bool, typer.Option("--lerp", help="Along the chord instead of the great circle.")] = False,
    steps: Annotated[int, options.setting("steps", "1 decodes; each further step is a round without noise.", "1")] = 1,
    fps: Annotated[float, typer.Option("--fps", min=0.1, max=MAX_FPS, help="Images a second of an animation.")] = 10.0,
    model: options.Model = None,
    batch: options.Batch = 64,
    dtype: options.Dtype = options.DtypeName.AUTO,
    weights: options.Weights = options.WeightsName.EMA,
    device: options.Device = None,
    threads: options.Threads = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help=".png: a strip or grid; .webp, .gif: an animation.",
            show_default="a new name",
        ),
    ] = None,
    provenance: options.Provenance = True,
    as_json: options.Json = False,
) -> None:
    """Go from one image to another on the sphere; classes, where the ends have different ones, are mixed alongside.

    Examples:
    spherectl interpolate a.png b.png --frames 12

    spherectl interpolate --seeds 3,7 --class sneaker,bag --out walk.webp
    """
    given = images or []
    if given and seeds is not None:
        raise UsageError("Expected images or --seeds, not both.")
    numbers = [] if given else _numbers(seeds or "0,1")
    ends = len(given) or len(numbers)
    if ends not in (2, 4):
        raise UsageError(f"Expected two ends or four corners; got {ends}.")
    suffix = ".png" if out is None else out.suffix.lower()
    if suffix not in (".png", *ANIMATED):
        raise UsageError(f"Expected an --out that ends in .png, .webp or .gif, got {out}.")

    from spherectl.data.transforms import to_uint8
    from spherectl.editing.interpolation import between
    from spherectl.fetch import file_hash
    from spherectl.files import asked_or_claimed
    from spherectl.images import grid, save_animation, save_png
    from spherectl.output import check_target
    from spherectl.provenance import describe_edit
    from spherectl.settings import load_settings

    check_target((out or Path("interpolated.png")).with_suffix(".png"))
    loaded = models.load(model, load_settings(), dtype=dtype, weights=weights, device=device, threads=threads)
    count = frames or (FRAMES if ends == 2 else SIDE)
    _check_pixels(loaded, count if ends == 2 else count**2)
    labels = _labels(loaded, class_, ends, sampled=not given)
    latents = _sampled(loaded, numbers) if numbers else _encoded(loaded, given, labels)
    path, classes = between(latents, labels, count, loaded.num_classes, spherical=not lerp)
    decoded = _decode(loaded, path, classes, steps, batch)
    columns = len(decoded) if ends == 2 else count
    pixels = to_uint8(decoded)
    about: dict[str, Any] | None = None
    if provenance:
        facts = {"seeds": numbers, "class": labels, "frames": count, "spherical": not lerp, "steps": steps}
        about = describe_edit(loaded, "interpolate", [file_hash(one) for one in given], **facts)

    with asked_or_claimed(out, "interpolated") as target:
        if suffix in ANIMATED:
            save_animation(target, pixels, fps)
        else:
            save_png(target, grid(pixels, columns), about)
    if as_json:
        console.show_json({"out": str(target), "frames": len(pixels), "model": loaded.name, "sha256": loaded.sha256})
    else:
        console.show_file(target)


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(re.fullmatch(r"\s*[0-9]{1,20}\s*", part) and int(part) <= options.MAX_SEED for part in parts):
        raise UsageError(f"Expected seeds from 0 to 2^64 - 1 as in 3,7; got {quoted(text)}.")
    return [int(part) for part in parts]


def _check_pixels(model: Model, count: int) -> None:
    """Refuse more frames than memory holds: they are written together."""
    size = model.recipe.model.image_size
    if count * size**2 > MAX_PIXELS:
        raise UsageError(
            f"{count:,} frames of {size} px are {count * size**2:,} pixels; one file holds at most {MAX_PIXELS:,}.",
            "Ask for fewer --frames.",
        )


def _labels(model: Model, asked: list[str] | None, ends: int, *, sampled: bool) -> list[int] | None:
    """A class for each end; None for an unconditional model."""
    from spherectl.classes import parse_classes

    if model.num_classes == 0 and asked is None:
        return None
    numbers = [0 if sampled else model.num_classes]
    if asked is not None:
        numbers = parse_classes(asked, model.class_names, model.num_classes, model.name)
    if len(numbers) not in (1, ends):
        raise UsageError(f"Expected one class, or one for each of {ends} ends; got {len(numbers)}.")
    return numbers * (ends // len(numbers)) if model.num_classes else None


def _sampled(model: Model, seeds: list[int]) -> Tensor:
    """Points of noise, the first image of each seed: (m, N, d)."""
    import torch

    from spherectl.model import seeding
    from spherectl.model.geometry import spherify

    first, shape = torch.zeros(1, dtype=torch.int64), model.network.latent_shape
    return spherify(torch.cat([seeding.noise(seed, seeding.INITIAL, first, shape) for seed in seeds]))


def _encoded(model: Model, paths: list[Path], labels: list[int] | None) -> Tensor:
    """Points of images, (m, N, d)."""
    import torch

    from spherectl.data.transforms import to_float

    pixels = torch.stack([image_files.read(path, model).pixels for path in paths])
    return model.encode(to_float(pixels), None if labels is None else torch.tensor(labels)).cpu()


def _decode(model: Model, points: Tensor, classes: Tensor | None, steps: int, batch: int) -> Tensor:
    import torch

    from spherectl.editing.rounds import decode

    pieces = points.split(batch)
    chosen = [None] * len(pieces) if classes is None else classes.split(batch)
    return torch.cat([decode(model, some, labels, steps=steps) for some, labels in zip(pieces, chosen, strict=True)])

"""`spherectl edit`: harmonise two images, change an image's class, reconstruct it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spherectl.cli import console, image_files, models, options
from spherectl.errors import UsageError
from spherectl.sampling import Guide, NoiseKind

if TYPE_CHECKING:
    from torch import Tensor

    from spherectl.api import Model
    from spherectl.editing.fitting import Fitted

STEPS = 4
ANGLES_DEG = (0, 30, 60, 80)  # of noise, that --reconstruct goes through


def edit(
    images: Annotated[list[Path], typer.Argument(metavar="A [B]", help="One image; two to harmonise.")],
    harmonize: Annotated[
        bool, typer.Option("--harmonize", "--harmonise", help="Stitch A and B, and remove the seam.")
    ] = False,
    to_class: Annotated[
        list[str] | None,
        typer.Option("--to-class", metavar="CLASS", help="Make A one of this class; repeatable, several with commas."),
    ] = None,
    reconstruct: Annotated[
        bool, typer.Option("--reconstruct", help="Encode and decode A, plainly and through noise.")
    ] = False,
    layout: Annotated[
        str, typer.Option("--layout", help="left-right, top-bottom, diagonal, anti-diagonal: A is named first.")
    ] = "left-right",
    mask: Annotated[
        Path | None, typer.Option("--mask", metavar="PNG", help="In place of a layout: white shows A, black B.")
    ] = None,
    swap: Annotated[bool, typer.Option("--swap", help="A and B change sides.")] = False,
    steps: Annotated[int | None, options.setting("steps", "Rounds of encoding and decoding.", "4")] = None,
    noise_deg: Annotated[
        float | None,
        options.setting(
            "noise_deg",
            "Noise of each round, in degrees below 90.",
            "0; for --to-class the model's own, or 70",
        ),
    ] = None,
    noise: Annotated[NoiseKind, options.setting("noise", default="shared")] = "shared",
    guidance: Annotated[
        float | None,
        options.setting("guidance", "Scale, for --to-class; 1 is off.", "the model's own, or 3"),
    ] = None,
    guide: Annotated[Guide, options.setting("guide", default="both")] = "both",
    model: options.Model = None,
    seed: options.Seed = 0,
    dtype: options.Dtype = options.DtypeName.AUTO,
    weights: options.Weights = options.WeightsName.EMA,
    device: options.Device = None,
    threads: options.Threads = None,
    out: options.Result = None,
    provenance: options.Provenance = True,
    as_json: options.Json = False,
) -> None:
    """Edit images of any size without training: a few rounds of encoding and decoding.

    Examples:
    spherectl edit a.png b.png --harmonize

    spherectl edit a.png --to-class sneaker --noise-deg 60

    spherectl edit a.png --reconstruct
    """
    chosen = [bool(harmonize), bool(to_class), bool(reconstruct)]
    if sum(chosen) != 1:
        raise UsageError("Expected one of --harmonize, --to-class and --reconstruct.", "See `spherectl edit --help`.")
    if len(images) != (2 if harmonize else 1):
        wanted = "two images, A and B" if harmonize else "one image"
        raise UsageError(f"Expected {wanted}; got {len(images)}.")
    if not harmonize and (mask is not None or swap or layout != "left-right"):
        raise UsageError("--layout, --mask and --swap are for --harmonize.")
    image_files.check_out(out)

    from spherectl.editing.rounds import class_change
    from spherectl.settings import load_settings

    loaded = models.load(model, load_settings(), dtype=dtype, weights=weights, device=device, threads=threads)
    fitted = image_files.read(images[0], loaded)
    if harmonize:
        settled: dict[str, Any] = {"noise_deg": noise_deg or 0.0, "noise": noise, "seed": seed}
        units = [image_files.unit(fitted), image_files.unit(image_files.read(images[1], loaded))]
        rows = _harmonized(loaded, images, units, layout, mask, swap, steps or STEPS, settled)
        kind, names = "harmonize", [""]
        settled |= {"layout": layout if mask is None else "mask", "swap": swap, "steps": steps or STEPS}
    elif to_class:
        own = class_change(loaded)
        settled = {
            "noise_deg": own["noise_deg"] if noise_deg is None else noise_deg,
            "guidance": own["guidance"] if guidance is None else guidance,
            "noise": noise,
            "guide": guide,
            "seed": seed,
        }
        count = steps or own["steps"]
        kind, (rows, names) = "to-class", _of_classes(loaded, fitted, to_class, count, settled)
        settled |= {"steps": count, "classes": names}
    else:
        kind, names, settled = "reconstruct", [""], {"seed": seed}
        rows = _reconstructed(loaded, images, fitted, seed)
    told = ", ".join(f"{key} {value}" for key, value in settled.items())
    console.say(f"settings: {told}, {loaded.precision}")
    written = _write(loaded, images, fitted, rows, names, out, kind, settled if provenance else None)
    image_files.tell(loaded, written, settled, as_json=as_json)


def _harmonized(
    model: Model,
    paths: list[Path],
    units: list[Tensor],
    layout: str,
    mask: Path | None,
    swap: bool,
    steps: int,
    noise: dict[str, Any],
) -> list[list[Tensor]]:
    """A, B, stitched, and the rounds."""
    from spherectl.editing.rounds import harmonise
    from spherectl.editing.stitching import layout_mask
    from spherectl.images import psnr

    size = model.recipe.model.image_size
    where = layout_mask(layout, size) if mask is None else _mask(mask, size)  # type: ignore[arg-type]
    a, b = units
    image_files.warn_if_far(paths, [float(psnr(one, model.reconstruct(one).cpu())) for one in (a, b)], model)
    stitched, *after = harmonise(model, a, b, 1 - where if swap else where, count=steps, **noise)
    return [[a, b, stitched, *after]]


def _mask(path: Path, size: int) -> Tensor:
    """(S, S) in [0, 1] of an image's luminance, fitted like an image; what is transparent is black."""
    from spherectl.data.decode import load_image
    from spherectl.data.transforms import adm_crop, to_float, to_grey

    return to_float(to_grey(adm_crop(load_image(path, over="black"), size)))[0]


def _of_classes(
    model: Model, fitted: Fitted, asked: list[str], steps: int, settings: dict[str, Any]
) -> tuple[list[list[Tensor]], list[str]]:
    """For each class the image and the rounds; and the classes' names."""
    from spherectl.classes import parse_classes
    from spherectl.editing.rounds import rounds

    if model.num_classes == 0:
        raise UsageError(f"{model.name} is unconditional: it has no classes to change to.")
    labels = parse_classes(asked, model.class_names, model.num_classes, model.name)
    null = (*model.class_names, "none") if model.class_names else ()
    x = image_files.unit(fitted)
    rows = [[x, *rounds(model, x, [label], count=steps, **settings)] for label in labels]
    return rows, [null[label] if null else str(label) for label in labels]


def _reconstructed(model: Model, paths: list[Path], fitted: Fitted, seed: int) -> list[list[Tensor]]:
    """The image and its reconstructions through noise; the plain one first, whose PSNR is said."""
    from spherectl.editing.rounds import through_noise
    from spherectl.images import psnr

    x = image_files.unit(fitted)
    found = through_noise(model, x, ANGLES_DEG, seed=seed)
    values = [float(psnr(x, one)) for one in found]
    console.say(
        "PSNR " + ", ".join(f"{value:.2f} dB at {angle}°" for angle, value in zip(ANGLES_DEG, values, strict=True))
    )
    image_files.warn_if_far(paths, values[:1], model)
    return [[x, *found]]


def _write(
    model: Model,
    paths: list[Path],
    fitted: Fitted,
    rows: list[list[Tensor]],
    names: list[str],
    out: Path | None,
    kind: str,
    settings: dict[str, Any] | None,
) -> list[Path]:
    """Each row's result at A's size and in its place, and all rows as a grid."""
    import torch

    from spherectl.data.transforms import to_uint8
    from spherectl.editing.fitting import put_back, resized
    from spherectl.files import file_hash
    from spherectl.images import grid
    from spherectl.provenance import describe_edit

    about = None
    if settings is not None:
        about = describe_edit(model, kind, [file_hash(path) for path in paths], **settings)
    last = 1 if kind == "reconstruct" else -1
    placed = resized if kind == "harmonize" else put_back  # around the seam there is nothing of A alone
    told_apart = image_files.suffixes(names) if len(names) > 1 else [""]
    by_suffix = dict(zip(told_apart, rows, strict=True))
    results = ((suffix, placed(to_uint8(row[last][0]), fitted)) for suffix, row in by_suffix.items())
    sheet = grid(torch.cat([image for row in rows for image in row]), columns=len(rows[0]))
    return image_files.write(out, f"{paths[0].stem}-{kind}", results, sheet, about)

"""`spherectl restore`: fill in, denoise, enlarge or sharpen an image, with the model as what images look like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spherectl.cli import console, degradation, image_files, models, options
from spherectl.cli.degradation import By, Task
from spherectl.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from spherectl.api import Model
    from spherectl.editing.fitting import Fitted
    from spherectl.editing.measurements import Measurement
    from spherectl.editing.restoration import Task as Kind

OWN = "the model's own, or the task's"
FAR = 3  # a result this many times farther from its measurement than noise would be has not explained it


def restore(
    image: Annotated[Path, typer.Argument(metavar="IMG", help="The damaged image; with --degrade, a whole one.")],
    task: Annotated[Task, typer.Option("--task", help="What is wrong with it.")],
    degrade: Annotated[
        bool, typer.Option("--degrade", help="Damage the image first, and say how near the result comes to it.")
    ] = False,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", metavar="PNG", help="inpaint: white where pixels are missing; as large as IMG."),
    ] = None,
    missing: Annotated[
        float | None,
        typer.Option(
            "--missing",
            min=0.0,
            max=0.99,
            help="inpaint --degrade: so many pixels are missing, at random.",
            show_default="0.5",
        ),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(
            "--sigma", min=0.5, max=255.0, help="denoise, deblur: noise, of 255 levels.", show_default="50; deblur: 2"
        ),
    ] = None,
    scale: Annotated[
        int | None, typer.Option("--scale", min=2, help="upscale: so many times larger.", show_default="4")
    ] = None,
    by: Annotated[
        By | None,
        typer.Option(
            "--by",
            help="upscale: IMG has means of pixels, or every n-th pixel.",
            show_default="pool",
            show_choices=True,
        ),
    ] = None,
    blur: Annotated[
        float | None,
        typer.Option(
            "--blur",
            min=0.1,
            max=degradation.MAX_BLUR,
            help="deblur: a Gaussian of so many pixels.",
            show_default="1.5",
        ),
    ] = None,
    kernel: Annotated[
        Path | None,
        typer.Option("--kernel", metavar="PNG", help="deblur: what becomes of a single point, as an image."),
    ] = None,
    rounds: Annotated[int | None, options.setting("steps", "Rounds.", OWN, flag="--rounds")] = None,
    noise_deg: Annotated[
        float | None,
        options.setting("noise_deg", "Degrees below 90 by which each round turns the latent at random.", OWN),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            "--lambda",
            min=0.0,
            max=degradation.MAX_LAMBDA,
            help="Above 0: a large one trusts the model, a small one the image.",
            show_default=OWN,
        ),
    ] = None,
    keep_rounds: Annotated[
        bool, typer.Option("--keep-rounds", help="Write what each round made to NAME-round-1.png and so on.")
    ] = False,
    class_: Annotated[
        str | None, typer.Option("--class", metavar="CLASS", help="Of the image.", show_default="none")
    ] = None,
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
    """Restore an image without training: its damage is known, and the model knows what images look like.

    Noise and blur are meant at the model's own size, to which larger images are reduced.

    Examples:
    spherectl restore torn.png --task inpaint --mask torn-mask.png

    spherectl restore grainy.png --task denoise --sigma 50

    spherectl restore thumbnail.png --task upscale --scale 4

    spherectl restore blurred.png --task deblur --blur 1.5

    spherectl restore a.png --task inpaint --degrade --missing 0.5
    """
    given: dict[str, Any] = {
        "--mask": mask,
        "--missing": missing,
        "--sigma": sigma,
        "--scale": scale,
        "--by": by,
        "--blur": blur,
        "--kernel": kernel,
    }
    degradation.check_options(task, {name for name, value in given.items() if value is not None}, degrade=degrade)
    image_files.check_out(out)

    from spherectl.editing.measurements import measured
    from spherectl.editing.restoration import SIGMAS, settings
    from spherectl.editing.restoration import restore as restored
    from spherectl.settings import load_settings

    loaded = models.load(model, load_settings(), dtype=dtype, weights=weights, device=device, threads=threads)
    kind: Kind = task.value
    own = settings(loaded, kind, sigma)
    chosen: dict[str, Any] = {
        "noise_deg": own["noise_deg"] if noise_deg is None else noise_deg,
        "weight": own["lambda"] if weight is None else weight,
        "count": rounds or own["rounds"],
        "seed": seed,
    }
    labels = loaded.labels(None if class_ is None else [class_], 1)
    times = degradation.times_larger(task, scale, loaded)
    fitted = _fitted(image, loaded, 1 if degrade else times)
    how, facts = degradation.measurement(task, fitted, loaded, given, seed)
    level = (sigma or SIGMAS[kind]) if task in (Task.DENOISE, Task.DEBLUR) else 0.0
    facts |= {"sigma": level} if level else {}
    facts |= {"lambda": chosen["weight"], "noise_deg": chosen["noise_deg"], "rounds": chosen["count"]}
    facts |= {"class": None if labels is None else int(labels[0]), "seed": seed, "degrade": degrade}
    told = ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in facts.items()
    )
    console.say(f"settings: task {task.value}, {told}, {loaded.precision}")

    x = image_files.unit(fitted)
    if degrade:
        y = measured(x, how, sigma=level, grey=loaded.recipe.data.channels == "grey", seed=seed)
    else:
        y = how.apply(x) if task is Task.INPAINT else x
    after: list[Tensor] = []
    with console.progress("restoring", chosen["count"], "rounds") as bar:
        for made in restored(loaded, y, how, classes=labels, **chosen):
            after.append(made)
            bar(len(after))
    found = _judged(loaded, image, how, y, after[-1], x if degrade else None)
    if level and found["misfit_levels"] > FAR * level:
        console.say(f"{image}: noise of {level:g} levels does not explain that; is the damage another one?")

    kept = {"": after[-1]}
    if keep_rounds:
        kept |= {f"-round-{number}": made for number, made in enumerate(after, start=1)}
    missing_at = None if mask is None else degradation.holes(mask)
    results = (
        (suffix, _placed(task, fitted, made, missing_at, 1 if degrade else times)) for suffix, made in kept.items()
    )
    inputs = [path for path in (image, mask, kernel) if path is not None]
    about = _about(loaded, inputs, {"task": task.value, **facts}) if provenance else None
    written = image_files.write(
        out, f"{image.stem}-restored", results, _sheet(how, y, after, x if degrade else None), about
    )
    image_files.tell(loaded, written, {"task": task.value, **facts, **found}, as_json=as_json)


def _fitted(image: Path, model: Model, smaller: int) -> Fitted:
    """The image at the model's size, or so many times smaller, which is what will be enlarged.

    Raises:
        UsageError: it is larger than that.
    """
    size = model.recipe.model.image_size // smaller
    fitted = image_files.read(image, model, size=size)
    width, height = fitted.original.size
    if smaller > 1 and min(width, height) > size:
        raise UsageError(
            f"{image} has {width} x {height} pixels; {model.name} makes {model.recipe.model.image_size} px, so "
            f"--scale {smaller} takes images of {size} px.",
            "Choose a smaller --scale, or --degrade to see what it does to an image that is made smaller first.",
        )
    return fitted


def _judged(
    model: Model, image: Path, how: Measurement, y: Tensor, result: Tensor, truth: Tensor | None
) -> dict[str, float]:
    """What can be said of a result: on stderr, and as numbers."""
    from spherectl.editing.measurements import misfit
    from spherectl.images import psnr

    found = {"misfit_levels": round(float(misfit(how, result, y)), 3)}
    text = f"the result explains the measurement to {found['misfit_levels']:.2f} of 255 levels (RMS)"
    if truth is not None:
        start = how.start(y).clamp(0, 1)
        found |= {"psnr_start_db": round(float(psnr(start, truth)), 3), "psnr_db": round(float(psnr(result, truth)), 3)}
        text = f"PSNR {found['psnr_start_db']:.2f} dB at the start, {found['psnr_db']:.2f} dB restored; {text}"
    console.say(text)
    known = result if truth is None else truth
    image_files.warn_if_far([image], [float(psnr(known, model.reconstruct(known).cpu()))], model)
    return found


def _placed(task: Task, fitted: Fitted, made: Tensor, missing: Image | None, times: int) -> Image:
    """A result at the image's size and in its place; the pixels that are not missing are the image's own."""
    from spherectl.data.transforms import to_uint8
    from spherectl.editing.fitting import put_back, resized

    pixels = to_uint8(made[0])
    if task is Task.UPSCALE and times > 1:
        return resized(pixels, fitted, times)
    return put_back(pixels, fitted, missing)


def _sheet(how: Measurement, y: Tensor, after: list[Tensor], truth: Tensor | None) -> Tensor:
    """The truth if it is known, what was measured, what the rounds begin with if that is more, and the rounds."""
    import torch

    from spherectl.editing.measurements import Masked
    from spherectl.images import grid

    start = how.start(y).clamp(0, 1)
    seen = y.clamp(0, 1) if isinstance(how, Masked) else start
    first = [] if truth is None else [truth]
    first += [seen] if torch.equal(seen, start) else [seen, start]
    tiles = [*first, *after]
    return grid(torch.cat(tiles), columns=len(tiles))


def _about(model: Model, inputs: list[Path], facts: dict[str, Any]) -> dict[str, Any]:
    from spherectl.files import file_hash
    from spherectl.provenance import describe_edit

    return describe_edit(model, "restore", [file_hash(path) for path in inputs], **facts)

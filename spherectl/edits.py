"""What the commands encode, edit, interpolate and restore do, for images in memory: a model and images in, images out.

Images go in as `Model.encode` takes them, and come out as float32 (B, 3, H, W) in [0, 1] on the CPU. The numbers are
those of the commands for images of the model's size; `spherectl.editing` has the steps between.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from spherectl.api import Classes, Images, Model
from spherectl.api.inputs import as_images, check_plain
from spherectl.checks import MAX_BATCH, check_choice, check_whole
from spherectl.editing import interpolation, measurements, restoration, rounds, stitching
from spherectl.editing.restoration import Task
from spherectl.editing.stitching import Layout
from spherectl.errors import UsageError
from spherectl.sampling import Guide, NoiseKind

STEPS = 4  # of harmonizing
SCALE, BLUR = 4, 1.5  # of restoring


def encode(model: Model, images: Images, classes: Classes = None, *, batch: int = 64) -> Tensor:
    """Points on the sphere of any number of images: `Model.encode` in batches.

    Args:
        model: from `spherectl.load`.
        images: as for `Model.encode`.
        classes: one for all, or one for each; None: the null class.
        batch: images computed together.

    Returns:
        (n, N, d) float32 on the CPU; `Model.decode` is the way back.

    Raises:
        UsageError: no such images, or classes that do not fit.

    >>> import spherectl, torch
    >>> model = spherectl.load("fashion-mnist", device="cpu")
    >>> spherectl.encode(model, torch.rand(5, 3, 32, 32), "bag", batch=4).shape
    torch.Size([5, 64, 8])
    """
    x = as_images(images, model.recipe)
    y = model.labels(classes, len(x))
    size = check_whole(batch, "batch", 1, MAX_BATCH)
    labels = [None] * len(x) if y is None else y.split(size)
    return torch.cat([model.encode(some, own).cpu() for some, own in zip(x.split(size), labels, strict=False)])


def edit(
    model: Model,
    images: Images,
    to_class: Classes,
    *,
    steps: int | None = None,
    noise_deg: float | None = None,
    guidance: float | None = None,
    noise: NoiseKind = "shared",
    guide: Guide = "both",
    seed: int = 0,
) -> Tensor:
    """Make images ones of another class, by a few rounds of encoding and decoding under it.

    Args:
        model: from `spherectl.load`, with classes.
        images: as for `Model.encode`; what they show need not be known.
        to_class: one for all, or one for each.
        steps: rounds; None here and below: as the model's file says, else as for any model.
        noise_deg: angle by which each round turns the latents at random, from 0 to below 90.
        guidance: scale of classifier-free guidance; 1 is off.
        noise: "shared", the same in all rounds, or "fresh" in each.
        guide: the network that guidance acts on.
        seed: of the noise.

    Raises:
        UsageError: an unconditional model, an unknown class, or an argument out of range.

    >>> import spherectl, torch
    >>> model = spherectl.load("fashion-mnist", device="cpu")
    >>> spherectl.edit(model, torch.rand(2, 3, 32, 32), "sneaker", steps=1).shape
    torch.Size([2, 3, 32, 32])
    """
    if model.num_classes == 0:
        raise UsageError(f"{model.name} is unconditional: it has no classes to change to.")
    own = rounds.class_change(model)
    how: dict[str, Any] = {
        "count": own["steps"] if steps is None else steps,
        "noise_deg": own["noise_deg"] if noise_deg is None else noise_deg,
        "guidance": own["guidance"] if guidance is None else guidance,
    }
    x = as_images(images, model.recipe)
    *_, made = rounds.rounds(model, x, to_class, noise=noise, guide=guide, seed=seed, **how)
    return made


def harmonize(
    model: Model,
    a: Images,
    b: Images,
    *,
    layout: Layout = "left-right",
    mask: Tensor | None = None,
    steps: int = STEPS,
    noise_deg: float = 0.0,
    noise: NoiseKind = "shared",
    seed: int = 0,
) -> Tensor:
    """Put two images together, and remove the seam by rounds of encoding and decoding.

    Args:
        model: from `spherectl.load`.
        a, b: as many images each, as for `Model.encode`.
        layout: where a shows: "left-right" (at the left), "top-bottom", "diagonal" or "anti-diagonal".
        mask: in place of a layout (H, W) in [0, 1]; 1 shows a, 0 shows b.
        steps: rounds.
        noise_deg, noise, seed: as for `edit`.

    Raises:
        UsageError: images or a mask that do not fit, or an argument out of range.

    >>> import spherectl, torch
    >>> model = spherectl.load("fashion-mnist", device="cpu")
    >>> spherectl.harmonize(model, torch.zeros(3, 32, 32), torch.ones(3, 32, 32), steps=1).shape
    torch.Size([1, 3, 32, 32])
    """
    x, y = as_images(a, model.recipe), as_images(b, model.recipe)
    if len(x) != len(y):
        raise UsageError(f"Expected as many images a as b, got {len(x)} and {len(y)}.")
    where = stitching.layout_mask(layout, model.image_size) if mask is None else _mask(mask, model, "mask")
    how: dict[str, Any] = {"count": steps, "noise_deg": noise_deg, "noise": noise, "seed": seed}
    return rounds.harmonise(model, x.cpu(), y.cpu(), where, **how)[-1]


def interpolate(
    model: Model,
    images: Images,
    classes: Classes = None,
    *,
    frames: int = 9,
    spherical: bool = True,
    steps: int = 1,
    batch: int = 64,
) -> Tensor:
    """Go from one image to another on the sphere, or fill the square between four.

    Args:
        model: from `spherectl.load`.
        images: two ends or four corners, as for `Model.encode`.
        classes: of the ends, which are mixed on the way where they differ; None: the null class.
        frames: F, of the path or along each side of the square.
        spherical: along the great circle; else along the chord, put back on the sphere.
        steps: 1 decodes; each further one is a round without noise.
        batch: images computed together.

    Returns:
        (F, 3, H, W) for two ends; (F F, 3, H, W) row by row for four corners.

    Raises:
        UsageError: another number of images, or an argument out of range.

    >>> import spherectl, torch
    >>> model = spherectl.load("fashion-mnist", device="cpu")
    >>> spherectl.interpolate(model, torch.rand(2, 3, 32, 32), ["bag", "sneaker"], frames=3).shape
    torch.Size([3, 3, 32, 32])
    """
    x = as_images(images, model.recipe)
    if len(x) not in (2, 4):
        raise UsageError(f"Expected two images or four, got {len(x)}.")
    batch = check_whole(batch, "batch", 1, MAX_BATCH)
    y = model.labels(classes, len(x))
    points, labels = interpolation.between(
        model.encode(x, y).cpu(), None if y is None else y.tolist(), frames, model.num_classes, spherical=spherical
    )
    own = [None] * len(points) if labels is None else labels.split(batch)
    return torch.cat(
        [
            rounds.decode(model, some, chosen, steps=steps)
            for some, chosen in zip(points.split(batch), own, strict=False)
        ]
    )


def restore(
    model: Model,
    images: Images,
    task: Task,
    *,
    missing: Tensor | None = None,
    sigma: float | None = None,
    scale: int = SCALE,
    by: Literal["pool", "decimate"] = "pool",
    blur: float = BLUR,
    rounds: int | None = None,
    noise_deg: float | None = None,
    weight: float | None = None,
    classes: Classes = None,
    seed: int = 0,
) -> Tensor:
    """Fill in, denoise, enlarge or sharpen images; the model knows what images look like.

    Args:
        model: from `spherectl.load`.
        images: the damaged images, as for `Model.encode`; for "upscale" they are `scale` times smaller.
        task: "inpaint", "denoise", "upscale" or "deblur".
        missing: for "inpaint": (H, W) or (B, 1, H, W), 1 where a pixel is missing.
        sigma: for "denoise" and "deblur": noise of the images, of 255 levels; None: 50, or 2.
        scale, by: for "upscale": how many times smaller, as means of pixels ("pool") or every n-th one ("decimate").
        blur: for "deblur": standard deviation of the Gaussian in pixels.
        rounds, noise_deg, weight: None: as the model's file says, else as for any model; the weight is lambda, of which
            a large one trusts the model, and a small one the images.
        classes: of the images; None: the null class.
        seed: of the noise.

    Raises:
        UsageError: images that do not fit, or an argument out of range.

    >>> import spherectl, torch
    >>> model = spherectl.load("fashion-mnist", device="cpu")
    >>> spherectl.restore(model, torch.rand(2, 3, 16, 16), "upscale", scale=2, rounds=1).shape
    torch.Size([2, 3, 32, 32])
    """
    own = restoration.settings(model, check_choice(task, restoration.TASKS, "task"), sigma)
    size, small = model.image_size, model.image_size
    how: measurements.Measurement
    match task:
        case "inpaint":
            if missing is None:
                raise UsageError("Which pixels are missing? Expected `missing`, 1 where they are.")
            how = measurements.Masked(1 - _mask(missing, model, "missing"))
        case "denoise":
            how = measurements.Masked(torch.ones(1, 1, size, size))
        case "upscale":
            scale = check_whole(scale, "scale", 2, size)
            if size % scale:
                raise UsageError(f"scale: {model.name} makes {size} px, which {scale} does not divide.")
            small = size // scale
            is_pooled = check_choice(by, ("pool", "decimate"), "by") == "pool"
            how = measurements.Pooled(scale) if is_pooled else measurements.Decimated(scale)
        case _:
            how = measurements.Blurred(measurements.gaussian_kernel(blur), (size, size))
    x = as_images(images, model.recipe, small).cpu().float()
    *_, made = restoration.restore(
        model,
        how.apply(x) if task == "inpaint" else x,
        how,
        count=own["rounds"] if rounds is None else rounds,
        noise_deg=own["noise_deg"] if noise_deg is None else noise_deg,
        weight=own["lambda"] if weight is None else weight,
        classes=classes,
        seed=seed,
    )
    return made


def _mask(mask: Tensor, model: Model, name: str) -> Tensor:
    """A mask as floats.

    Raises:
        UsageError: another shape, or values outside [0, 1].
    """
    check_plain(mask, name)
    size = model.image_size
    values = mask.float().cpu()
    is_unit = bool(((values >= 0) & (values <= 1)).all())
    if values.dim() not in (2, 4) or tuple(values.shape[-2:]) != (size, size) or not is_unit:
        raise UsageError(f"{name}: expected ({size}, {size}) of values from 0 to 1, got {tuple(values.shape)}.")
    return values

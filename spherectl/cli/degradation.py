"""What `spherectl restore` is told of an image's damage: options that belong together, and what they mean."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spherectl.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from spherectl.api import Model
    from spherectl.editing.fitting import Fitted
    from spherectl.editing.measurements import Measurement

MISSING, SCALE, BLUR = 0.5, 4, 1.5  # where nothing is asked for: those of docs/restoration.md
MAX_LAMBDA = 1e9  # beyond, the image is lost in rounding
MAX_BLUR = 256.0  # pixels of a standard deviation; a whole image is one grey long before
CERTAIN = 5  # levels of 255 that a mask may have where a pixel is known, once it was made smaller


class Task(StrEnum):
    """What is wrong with the image."""

    INPAINT = "inpaint"
    DENOISE = "denoise"
    UPSCALE = "upscale"
    DEBLUR = "deblur"


class By(StrEnum):
    """How a small image came from a large one."""

    POOL = "pool"
    DECIMATE = "decimate"


# The options that only some tasks have.
OF_TASK = {
    Task.INPAINT: ("--mask", "--missing"),
    Task.DENOISE: ("--sigma",),
    Task.UPSCALE: ("--scale", "--by"),
    Task.DEBLUR: ("--blur", "--kernel", "--sigma"),
}


def check_options(task: Task, given: set[str], *, degrade: bool) -> None:
    """Refuse options that mean nothing together.

    Raises:
        UsageError: they are for another task, contradict each other, or say too little.
    """
    if wrong := sorted(given - set(OF_TASK[task])):
        tasks = [name.value for name, own in OF_TASK.items() if wrong[0] in own]
        raise UsageError(f"{wrong[0]} is for --task {' and '.join(tasks)}, not for {task.value}.")
    if {"--mask", "--missing"} <= given or {"--blur", "--kernel"} <= given:
        raise UsageError(f"Expected one of {' and '.join(OF_TASK[task][:2])}, not both.")
    if task is Task.INPAINT and not degrade and "--mask" not in given:
        raise UsageError(
            "Which pixels are missing? Expected --mask PNG, white where they are.",
            "To see what it does to a whole image: --degrade, with --missing 0.5 or a mask.",
        )


def times_larger(task: Task, scale: int | None, model: Model) -> int:
    """How many times larger the result is; 1 for the other tasks.

    Raises:
        UsageError: the model's size is not divided by it.
    """
    if task is not Task.UPSCALE:
        return 1
    times, size = scale or SCALE, model.recipe.model.image_size
    if size % times or times == size:
        fine = ", ".join(str(one) for one in range(2, size) if size % one == 0)
        raise UsageError(f"{model.name} makes {size} px, which --scale {times} does not divide; these do: {fine}.")
    return times


def measurement(
    task: Task, fitted: Fitted, model: Model, given: dict[str, Any], seed: int
) -> tuple[Measurement, dict[str, Any]]:
    """How the image was measured, and what of that is told."""
    import torch

    from spherectl.data.decode import load_image
    from spherectl.data.transforms import as_tensor
    from spherectl.editing import measurements

    size = model.recipe.model.image_size
    match task:
        case Task.INPAINT if given["--mask"] is not None:
            return measurements.Masked(_known(given["--mask"], fitted, model)), {"mask": True}
        case Task.INPAINT:
            share = MISSING if given["--missing"] is None else given["--missing"]
            return measurements.Masked(measurements.random_mask(1, size, share, seed)), {"missing": share}
        case Task.DENOISE:
            return measurements.Masked(torch.ones(1, 1, size, size)), {}
        case Task.UPSCALE:
            by, times = given["--by"] or By.POOL, given["--scale"] or SCALE
            pooled = measurements.Pooled if by is By.POOL else measurements.Decimated
            return pooled(times), {"scale": times, "by": by.value}
        case Task.DEBLUR if given["--kernel"] is not None:
            shown = load_image(given["--kernel"], over="black")
            if max(shown.size) > size:
                sides = f"{shown.height} x {shown.width}"
                raise UsageError(f"A kernel of {sides} does not fit images of {size} x {size}.")
            kernel = measurements.kernel_of(as_tensor(shown))
            return measurements.Blurred(kernel, (size, size)), {"kernel": True}
    blur = given["--blur"] or BLUR
    return measurements.Blurred(measurements.gaussian_kernel(blur), (size, size)), {"blur": blur}


def _known(mask: Path, fitted: Fitted, model: Model) -> Tensor:
    """(1, 1, S, S), 1 where the image is known: where a mask, made as small as the image, is black.

    Raises:
        UsageError: the mask is of another size, or nothing or all is missing.
    """
    from spherectl.editing.fitting import fit

    image = holes(mask)
    if image.size != fitted.original.size:
        sizes = [f"{width} x {height}" for width, height in (image.size, fitted.original.size)]
        raise UsageError(f"The mask has {sizes[0]} pixels and the image {sizes[1]}; expected the same size.")
    known = (fit(image.convert("RGB"), model.recipe).pixels[:1] <= CERTAIN).float()[None]
    left, top, right, bottom = fitted.inner
    share = float(known[..., top:bottom, left:right].mean())
    if share in (0.0, 1.0):
        raise UsageError(
            f"By the mask {'nothing' if share else 'all'} is missing of what {model.name} sees of the image.",
            "White means missing; black and transparent mean known.",
        )
    return known


def holes(mask: Path) -> Image:
    """A mask's image ("L") in black, where a pixel is known, and white; what is transparent is known."""
    from spherectl.data.decode import load_image

    return load_image(mask, over="black").convert("L").point(lambda level: 255 * (level >= 128))

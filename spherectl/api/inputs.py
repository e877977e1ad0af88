"""What callers give, as the networks take it: images in any form that people have them in, and classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from spherectl.checks import as_whole
from spherectl.classes import parse_classes
from spherectl.data.decode import as_rgb
from spherectl.data.transforms import adm_crop, pad_or_adm, to_float, to_grey
from spherectl.errors import UsageError
from spherectl.recipe import Recipe
from spherectl.shown import quoted

# One image, or a batch in one tensor or array.
Images = Tensor | npt.NDArray[Any] | Image.Image | Sequence[Tensor | npt.NDArray[Any] | Image.Image]
Classes = str | int | Sequence[str | int] | Tensor | None

TOLERANCE = 1e-6  # that rounding may leave [0, 1] by
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def as_images(images: Images, recipe: Recipe, size: int | None = None) -> Tensor:
    """Images in any accepted form as one batch: the converter of everything that takes images.

    Args:
        images: a float tensor in [0, 1] or a uint8 tensor, of shape (B, 3, H, W) or (3, H, W), or with the channels
            last; a numpy array of the same; a PIL image of any size and mode; or a list of these, one image each.
            Tensors and arrays have the model's size. PIL images are fitted to it as by `spherectl encode`.
        recipe: of the model.
        size: H and W in pixels, where they are not the model's.

    Returns:
        (B, 3, H, W) floats in [0, 1]. A float tensor of that shape is returned as it is, with its gradient.

    Raises:
        UsageError: another shape, type or range.
    """
    if not isinstance(images, list | tuple):
        batch = _batch(images, recipe, size)
    elif not images:
        raise UsageError("Expected at least one image, got an empty list.")
    else:
        several = [_batch(image, recipe, size) for image in images]
        if any(len(one) != 1 for one in several):
            raise UsageError("Expected a list of single images, got one of batches.", "Join them with torch.cat.")
        batch = torch.cat([one.to(several[0]) for one in several])
    low, high = float(batch.detach().min()), float(batch.detach().max())
    if not -TOLERANCE <= low <= high <= 1 + TOLERANCE:
        raise UsageError(f"Expected float images in [0, 1], got {batch.dtype} from {low:g} to {high:g}.")
    return batch


def _batch(images: object, recipe: Recipe, size: int | None) -> Tensor:
    """(B, 3, H, W) floats of one tensor, array or image; their range is not looked at."""
    side = size or recipe.model.image_size
    if isinstance(images, Image.Image):
        return to_float(fitted(as_rgb(images), recipe, side))[None]
    if isinstance(images, np.ndarray):
        if images.dtype.kind not in "fu" or images.dtype.itemsize > 8:
            raise UsageError(f"Expected images of floats in [0, 1] or of uint8, got an array of {images.dtype}.")
        images = torch.from_numpy(np.array(images))
    if not isinstance(images, Tensor):
        known = "a torch.Tensor, a numpy array, a PIL image, or a list of them"
        raise UsageError(f"Expected images as {known}, got {quoted(images)}.")
    check_plain(images, "images")
    if images.dim() in (3, 4) and tuple(images.shape[-3:]) == (side, side, 3):
        images = images.movedim(-1, -3)  # (..., H, W, 3) -> (..., 3, H, W)
    if images.dim() not in (3, 4) or len(images) == 0 or tuple(images.shape[-3:]) != (3, side, side):
        raise UsageError(f"Expected images of shape (B, 3, {side}, {side}), got {tuple(images.shape)}.")
    if images.dtype not in (*FLOATS, torch.uint8):
        raise UsageError(f"Expected images of floats in [0, 1] or of uint8, got {images.dtype}.")
    batch = images if images.dim() == 4 else images[None]
    return to_float(batch) if batch.dtype == torch.uint8 else batch


def fitted(image: Image.Image, recipe: Recipe, size: int) -> Tensor:
    """An RGB image of any size as the model sees it: uint8 (3, size, size), grey for a model of grey images."""
    pixels = (pad_or_adm if recipe.data.fit == "pad" else adm_crop)(image, size)
    return to_grey(pixels) if recipe.data.channels == "grey" else pixels


def check_plain(value: object, what: str) -> None:
    """Refuse what is no dense tensor of numbers.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_quantized:
        kind = f"a tensor of another layout ({value.layout})" if isinstance(value, Tensor) else quoted(value)
        raise UsageError(f"Expected {what} as a plain torch.Tensor, got {kind}.")


def class_labels(
    classes: Classes, batch: int, num_classes: int, class_names: Sequence[str], model: str, device: torch.device
) -> Tensor | None:
    """(B,) labels of classes, or their mixtures as they are; None for an unconditional model.

    Args:
        classes: as for `Model.labels`.
        batch: B.
        num_classes: of the model; the null class is `num_classes`.
        class_names: of the model.
        model: its name, for messages.
        device: of the labels.

    Raises:
        UsageError: as `Model.labels`.
    """
    if num_classes == 0:
        return None
    if classes is None:
        return torch.full((batch,), num_classes, device=device)
    if isinstance(classes, Tensor) and classes.is_floating_point():
        if tuple(classes.shape) != (batch, num_classes + 1):
            raise UsageError(f"Expected weights of shape ({batch}, {num_classes + 1}), got {tuple(classes.shape)}.")
        if not classes.isfinite().all():
            raise UsageError("Expected weights of classes that are finite; some are infinite or NaN.")
        return classes.to(device)

    def number(one: str | int) -> int:
        found = [num_classes] if one == num_classes else parse_classes([one], class_names, num_classes, model)
        if len(found) != 1:
            raise UsageError(f"Expected one class for each image, got {quoted(one)}, which is {len(found)}.")
        return found[0]

    chosen = [number(one) for one in listed_classes(classes)]
    if len(chosen) not in (1, batch):
        raise UsageError(f"Expected one class, or one for each of {batch} images, got {len(chosen)}.")
    return torch.tensor(chosen * (batch // len(chosen)), device=device)


def listed_classes(classes: object) -> list[str | int]:
    """Classes one by one, as they were given: a single one, a list, a tensor or an array.

    Raises:
        UsageError: one of them is neither a name nor a whole number.
    """
    if isinstance(classes, str):
        return [classes]
    given = classes.tolist() if isinstance(classes, Tensor | np.ndarray) else classes
    if as_whole(given) is not None:
        given = [given]
    if isinstance(given, bytes) or not isinstance(given, Sequence):
        raise UsageError(f"Expected class numbers or names, got {quoted(classes)}.")
    return [one if isinstance(one, str) else _class_number(one) for one in given]


def _class_number(one: object) -> int:
    number = as_whole(one)
    if number is None or abs(number) >= 2**63:
        raise UsageError(f"Expected a class number or name, got {quoted(one)}.")
    return number

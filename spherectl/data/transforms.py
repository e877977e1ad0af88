"""Fitting images to the model's size, and the only conversion between bytes and floats in the project.

Letters: B batch, H height, W width. Bytes are uint8, channels first; floats are in [0, 1].
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from spherectl.checks import check_choice
from spherectl.errors import UsageError

# How far rounding may push a float out of [0, 1] before it counts as a mistake.
TOLERANCE = 1e-6

# At this size and below, training resizes with the nearest pixel; above it bicubically (section 4).
NEAREST_UP_TO = 64


def to_float(pixels: Tensor) -> Tensor:
    """Bytes (any shape) to float32 in [0, 1]: x = b / 255. `to_uint8` gives the same bytes back under either rule."""
    return pixels.float() / 255


def to_uint8(images: Tensor, rule: Literal["round", "floor"] = "round") -> Tensor:
    """Floats in [0, 1] (any shape) to bytes.

    Args:
        images: floating point, at most 1e-6 outside [0, 1]. Half precisions are computed in float32.
        rule: "round": floor(255 x + 1/2); "floor": floor(255 x), as the published evaluation does.

    Raises:
        UsageError: a value is out of range or not a number.
    """
    check_choice(rule, ("round", "floor"), "rule")
    if not images.is_floating_point():
        raise UsageError(f"Images are floats in [0, 1]; these are {images.dtype}.")
    values = images if images.dtype == torch.float64 else images.float()
    if values.numel():
        low, high = (bound.item() for bound in values.aminmax())
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # written so that NaN fails too
            raise UsageError(f"Images are floats in [0, 1]; these reach from {low:.4g} to {high:.4g}.")
    scaled = values.clamp(0, 1).mul_(255)
    return (scaled.add_(0.5) if rule == "round" else scaled).floor_().to(torch.uint8)


def to_grey(pixels: Tensor) -> Tensor:
    """Luminance (ITU-R 601, in the 16-bit integers Pillow uses) as three equal channels: uint8 (..., 3, H, W)."""
    red, green, blue = pixels.to(torch.int32).unbind(-3)
    grey = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return grey.to(torch.uint8).unsqueeze(-3).expand_as(pixels).contiguous()


def as_tensor(image: Image.Image) -> Tensor:
    """An RGB image as uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # (H, W, 3) -> (3, H, W)


def as_image(pixels: Tensor) -> Image.Image:
    """uint8 (3, H, W), on any device, as an RGB image."""
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())  # (3, H, W) -> (H, W, 3)


def pad_to(pixels: Tensor, size: int) -> Tensor:
    """Black around uint8 (..., H, W) up to (..., size, size), centred; an odd rest goes below and to the right.

    Raises:
        UsageError: the image is larger than `size`.
    """
    height, width = pixels.shape[-2:]
    if max(height, width) > size:
        raise UsageError(
            f'An image of {width} x {height} pixels does not fit {size} x {size}; data.fit = "pad" never shrinks.',
            "Use --set data.fit=crop, which resizes.",
        )
    top, left = (size - height) // 2, (size - width) // 2
    return F.pad(pixels, (left, size - width - left, top, size - height - top))


def fit_pad(image: Image.Image, size: int) -> Tensor:
    """The image at its own resolution in the middle of a black square: uint8 (3, size, size)."""
    return pad_to(as_tensor(image), size)


def fit_crop(image: Image.Image, size: int) -> Tensor:
    """Training's geometry (section 4): shorter side to `size`, then the centre: uint8 (3, size, size).

    The longer side is rounded down; nearest pixel where size <= 64, bicubic above.
    """
    short, long = min(image.size), max(image.size)
    scaled = int(size * long / short)
    shape = (size, scaled) if image.width <= image.height else (scaled, size)
    resample = Image.Resampling.NEAREST if size <= NEAREST_UP_TO else Image.Resampling.BICUBIC
    resized = image.resize(shape, resample)
    left, top = (round((side - size) / 2) for side in resized.size)
    return as_tensor(resized.crop((left, top, left + size, top + size)))


def adm_crop(image: Image.Image, size: int) -> Tensor:
    """Evaluation's and editing's geometry (section 4), as in the ADM evaluations: uint8 (3, size, size).

    Halve with a box filter while the shorter side is at least twice `size`, resize bicubically until it is `size`,
    take the centre.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    shape = (round(image.width * scale), round(image.height * scale))
    resized = image.resize(shape, Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in resized.size)
    return as_tensor(resized.crop((left, top, left + size, top + size)))


def pad_or_adm(image: Image.Image, size: int) -> Tensor:
    """Evaluation's geometry for models whose training pads: `fit_pad` where the image fits, else `adm_crop`."""
    return fit_pad(image, size) if max(image.size) <= size else adm_crop(image, size)

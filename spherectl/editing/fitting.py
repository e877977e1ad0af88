"""Fitting images of any size to a model's size, and putting results back in their place."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageChops
from torch import Tensor

from spherectl.data.transforms import adm_crop, as_image, fit_pad, to_grey
from spherectl.recipe import Recipe

GREY_LEVELS = 16

Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Fitted:
    """An image as a model sees it.

    Attributes:
        pixels: uint8 (3, S, S).
        original: the image itself, RGB.
        box: the part of the original that the model sees.
        inner: the place of that part in `pixels`; around it is black.
    """

    pixels: Tensor
    original: Image.Image
    box: Box
    inner: Box


def fit(image: Image.Image, recipe: Recipe, size: int | None = None) -> Fitted:
    """The image at the model's size: a small one as in training where that pads, else the ADM centre crop.

    Args:
        image: RGB, of any size.
        recipe: of the model; a grey one sees luminance.
        size: S in pixels, if it is not the model's.
    """
    size = size or recipe.model.image_size
    width, height = image.size
    if recipe.data.fit == "pad" and max(width, height) <= size:
        pixels, box = fit_pad(image, size), (0, 0, width, height)
        left, top = (size - width) // 2, (size - height) // 2
        inner = (left, top, left + width, top + height)
    else:
        pixels, side = adm_crop(image, size), min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box, inner = (left, top, left + side, top + side), (0, 0, size, size)
    return Fitted(to_grey(pixels) if recipe.data.channels == "grey" else pixels, image, box, inner)


def put_back(pixels: Tensor, fitted: Fitted, where: Image.Image | None = None) -> Image.Image:
    """Put a model's result back into the image at its size and place; the rest of the image stays as it is.

    Args:
        pixels: uint8 (3, S, S).
        fitted: from `fit`.
        where: black and white ("L"), of the original's size: the result goes only where it is white; None: everywhere.

    Returns:
        RGB, of the original's size. Not a tensor: a photo's takes three copies of it.
    """
    whole = fitted.original.copy()
    whole.paste(resized(pixels, fitted), fitted.box, None if where is None else where.crop(fitted.box))
    return whole


def resized(pixels: Tensor, fitted: Fitted, scale: int = 1) -> Image.Image:
    """A model's result alone, at the size of the part of the image that the model saw.

    Args:
        pixels: uint8 (3, scale S, scale S).
        fitted: from `fit`.
        scale: so many times larger.

    Returns:
        RGB, of scale w x scale h pixels.
    """
    left, top, right, bottom = (scale * place for place in fitted.inner)
    seen = as_image(pixels[:, top:bottom, left:right])
    size = (scale * (fitted.box[2] - fitted.box[0]), scale * (fitted.box[3] - fitted.box[1]))
    return seen if seen.size == size else seen.resize(size, Image.Resampling.BICUBIC)


def is_colourful(image: Image.Image) -> bool:
    """Whether the channels differ by more than compression, or a grey model, makes them differ."""
    red, green, blue = image.split()
    high = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    low = ImageChops.darker(ImageChops.darker(red, green), blue)
    return bool(ImageChops.subtract(high, low).getextrema()[1] > GREY_LEVELS)  # type: ignore[operator]

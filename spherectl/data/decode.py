"""Reading one picture file, whatever its format and colour mode, as upright 8-bit RGB."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from spherectl.errors import FileError

# What a folder of pictures is searched for, lower case. Of an animation the first frame is read.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

# A strip longer than this fills the memory when its short side is enlarged, and shows nothing once it is cropped.
MAX_ASPECT = 100


class PictureError(FileError):
    """One picture that cannot be read; training goes on without a few of them."""


def load_image(path: Path | str) -> Image.Image:
    """The picture in a file as people see it.

    EXIF rotation is applied, transparent pixels are laid over white, 16-bit grey is scaled to 8 bits (rounded, not cut
    off), and every other mode (grey, palette, CMYK, ...) is converted to RGB.

    Args:
        path: a file in any of the formats Pillow reads.

    Returns:
        A picture of mode "RGB", fully decoded, its file closed.

    Raises:
        PictureError: the file is missing, no picture, damaged, truncated, implausibly large, or a strip of more than
            100 to 1; the message names the file.
    """
    return _decode(path, str(path))


def decode_image(content: bytes, name: str) -> Image.Image:
    """`load_image` of a file's content; errors call it `name`."""
    return _decode(io.BytesIO(content), name)


def cannot_read(name: str, reason: str) -> PictureError:
    """The sentence for a picture that cannot be read."""
    return PictureError(
        f"Cannot read the picture {name}: {reason}.", "Repair or remove the file, then run the command again."
    )


def _decode(source: Path | str | io.BytesIO, name: str) -> Image.Image:
    try:
        # Damaged EXIF makes Pillow warn once a picture; ImageNet alone has hundreds. What matters raises.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(source) as picture:
                rgb = _to_rgb(_upright(picture))
    except UnidentifiedImageError:
        raise cannot_read(name, "it is not a picture in a format Pillow knows") from None
    # Pillow's decoders raise whatever they trip over in a damaged file: OSError, SyntaxError, ValueError, EOFError, ...
    except Exception as error:  # noqa: BLE001
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise cannot_read(name, reason.rstrip(".")) from None
    if max(rgb.size) > MAX_ASPECT * min(rgb.size):
        raise cannot_read(name, f"it is a strip of {rgb.width} x {rgb.height} pixels, longer than {MAX_ASPECT} to 1")
    return rgb


def _upright(picture: Image.Image) -> Image.Image:
    """Apply the EXIF rotation; a damaged EXIF block means none."""
    picture.load()
    try:
        return ImageOps.exif_transpose(picture)
    except (SyntaxError, ValueError, KeyError, TypeError, ZeroDivisionError, struct.error):
        return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        return _from_16_bit(picture)
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits")
    if picture.has_transparency_data:
        colour = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour).convert("RGB")
    return picture.convert("RGB")


def _from_16_bit(picture: Image.Image) -> Image.Image:
    """Grey values 0..65535 to 0..255, rounded: Pillow's own conversion saturates or drops the low byte."""
    grey = np.asarray(picture).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError("its grey values leave the range of 16 bits; save it with 8 or 16 bits")
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")

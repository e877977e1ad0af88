"""Reading one image file, whatever its colour mode, as upright 8-bit RGB; and which files of a folder are images.

Files come from strangers. The formats are a closed list, since some of Pillow's readers start programs (PostScript);
the size is looked at before a pixel is decoded.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import io
import logging
import struct
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, _imaging
from PIL.JpegImagePlugin import JpegImageFile

from spherectl.data.names import is_hidden
from spherectl.errors import FileError
from spherectl.files import open_regular
from spherectl.shown import shortened

# Pillow reads AVIF from 11.3 on, where it was built so.
_AVIF = importlib.util.find_spec("PIL._avif") is not None

# What is read, as Pillow calls it; JPEG includes the MPO of phones. Of an animation the first frame is read.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", *(["AVIF"] if _AVIF else []))

# The same as suffixes, lower case.
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *([".avif"] if _AVIF else []),
)

# Suffixes of images that are not read; that a folder has some is worth a word.
OTHER_SUFFIXES = (
    *(".heic", ".heif", ".jxl", ".jp2", ".svg", ".psd", ".ico", ".tga", ".exr", ".ppm", ".pgm", ".pnm", ".eps"),
    *(".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
    *([] if _AVIF else [".avif"]),
)

# Photos of phones reach 108 megapixels, of medium format cameras 102; editing one takes 12 bytes a pixel.
MAX_PIXELS = 110_000_000

# 100 megapixels of 16-bit colour without compression are 600 MB.
MAX_BYTES = 640 << 20

# WebP and AVIF are read whole by their decoders, copied, and take up to 16 bytes a pixel.
MAX_WHOLE_BYTES = 128 << 20
MAX_WHOLE_PIXELS = 64_000_000

# Of one thread, to decode one file: 110 megapixels take 3 s. Files can be made whose headers alone would take hours.
MAX_CPU_S = 10.0

# A strip longer than this fills the memory when its short side is enlarged, and shows nothing once it is cropped.
MAX_ASPECT = 100

# Pillow's own log reaches stderr where nobody listens to it.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# libtiff writes its errors to stderr; Pillow raises one of its own beside. Where libtiff is no library of its own, or
# Pillow has none, it stays as it is.
with contextlib.suppress(AttributeError, OSError, TypeError):
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)

_AT_ONCE = 1 << 22  # pixels whose mode is changed together, so that copies stay small
_PIECE = 2048  # bytes of a JPEG decoded between two looks at the clock; 100 of them can ask for 0.1 s of work
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF


Background = Literal["white", "black"]


class ImageError(FileError):
    """One image that cannot be read; training goes on without a few of them."""


def is_image_name(name: str) -> bool:
    """Whether a file of a folder counts as an image by its name; hidden ones (.thumb.png, ._0.png) never do."""
    return not is_hidden(name) and name.lower().endswith(SUFFIXES)


def is_other_image_name(name: str) -> bool:
    """Whether it is an image by its name that is not read here, as .heic or .svg."""
    return not is_hidden(name) and name.lower().endswith(OTHER_SUFFIXES)


def load_image(path: Path | str, over: Background = "white") -> Image.Image:
    """The image in a file as people see it.

    EXIF rotation is applied, transparent pixels are laid over white, 16-bit grey is scaled to 8 bits (rounded, not cut
    off), and every other mode (grey, palette, CMYK, ...) is converted to RGB.

    Args:
        path: a file in one of `FORMATS`, whatever its suffix.
        over: what transparent pixels are laid over; black for masks, where white has a meaning.

    Returns:
        An image of mode "RGB", fully decoded, its file closed.

    Raises:
        ImageError: the file is missing, no regular file, no image, damaged, truncated, beyond one of the limits
            above, or a strip of more than 100 to 1; the message names the file.
    """
    return _decode(path, str(path), over)


def as_rgb(image: Image.Image) -> Image.Image:
    """A PIL image of any mode, as `load_image` gives one; the image itself stays as it is.

    Raises:
        ImageError: it cannot be decoded, or converted to RGB.
    """
    try:
        upright = image.copy()
        _turn_upright(upright)
        return _to_rgb(upright, "white")
    except Exception as error:  # noqa: BLE001 - Pillow decodes only now, and raises whatever it trips over
        raise cannot_read("given", shortened(str(error).rstrip(".") or type(error).__name__)) from None


def decode_image(content: bytes, name: str) -> Image.Image:
    """`load_image` of a file's content; errors call it `name`."""
    return _decode(content, name, "white")


def is_animated(path: Path | str) -> bool:
    """Whether a file has more frames than the one that is read.

    Raises:
        ImageError: as `load_image`.
    """
    with open_image(path) as image:
        return bool(getattr(image, "is_animated", False))


def cannot_read(name: str, reason: str) -> ImageError:
    """The sentence for an image that cannot be read."""
    return ImageError(
        f"Cannot read the image {name}: {reason}.", "Repair or remove the file, then run the command again."
    )


@contextlib.contextmanager
def open_image(source: Path | str | bytes, name: str | None = None) -> Iterator[Image.Image]:
    """An image file, opened but not decoded yet; whatever fails inside is a `ImageError`.

    Args:
        source: a file's path, or its content.
        name: what errors call it; None: the path.

    Raises:
        ImageError: as `load_image`, but for strips.
    """
    name = str(source) if name is None else name
    try:
        # Damaged EXIF makes Pillow warn once an image; ImageNet alone has hundreds. What matters raises.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _Source(source) as file, Image.open(file, formats=FORMATS) as image:
                _check_size(image)
                yield image
    except UnidentifiedImageError:
        raise cannot_read(name, f"it is not an image in a format read here ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise cannot_read(name, f"it has more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise cannot_read(name, "there is not enough memory for it") from None
    # Pillow's decoders raise whatever they trip over in a damaged file: OSError, SyntaxError, ValueError, EOFError, ...
    except Exception as error:  # noqa: BLE001
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise cannot_read(name, shortened(reason.rstrip("."))) from None


class _Source(io.BufferedReader):
    """A file that gives up after `MAX_CPU_S`, and that no decoder can map (it would die when the file shrinks)."""

    def __init__(self, source: Path | str | bytes) -> None:
        raw = io.BytesIO(source) if isinstance(source, bytes) else open_regular(source).detach()
        super().__init__(raw)
        self._until = time.thread_time() + MAX_CPU_S
        head = self.read(12)
        whole = head.startswith(b"RIFF") or head[4:8] == b"ftyp"
        most, found = MAX_WHOLE_BYTES if whole else MAX_BYTES, self.seek(0, io.SEEK_END)
        if found > most:
            self.close()
            raise ValueError(f"it has {found:,} bytes, more than {most:,}")
        self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self._until:
            raise TimeoutError(f"decoding it takes more than {MAX_CPU_S:g} s")
        return super().read(size)

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ValueError("it has no pixels")
    sides = [(width, height)]
    if tags := getattr(image, "tag_v2", None):  # a TIFF's tiles are made in memory too
        sides.append((int(tags.get(_TILE_WIDTH, 1)), int(tags.get(_TILE_LENGTH, 1))))
    most = MAX_WHOLE_PIXELS if image.format in ("WEBP", "AVIF") else MAX_PIXELS
    for across, down in sides:
        if across * down > most:
            raise ValueError(f"it has {across} x {down} pixels, more than {most:,} in all")


def _decode(source: Path | str | bytes, name: str, over: Background) -> Image.Image:
    with open_image(source, name) as image:
        if max(image.size) > MAX_ASPECT * min(image.size):
            size = f"{image.width} x {image.height}"
            raise ValueError(f"it is a strip of {size} pixels, longer than {MAX_ASPECT} to 1")
        _turn_upright(image)
        return _to_rgb(image, over)


def _turn_upright(image: Image.Image) -> None:
    """Decode it, and apply the EXIF rotation; a damaged EXIF block means none."""
    if isinstance(image, JpegImageFile):
        image.decodermaxblock = _PIECE
    image.load()
    with contextlib.suppress(SyntaxError, ValueError, KeyError, TypeError, ZeroDivisionError, struct.error):
        ImageOps.exif_transpose(image, in_place=True)


def _to_rgb(image: Image.Image, over: Background) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits")
    convert: Callable[[Image.Image], Image.Image]
    if image.mode == "I" or image.mode.startswith("I;16"):
        convert = _from_16_bit
    elif image.has_transparency_data:
        convert = functools.partial(_laid_over, over)
    else:
        return image.convert("RGB")
    rgb = Image.new("RGB", image.size)
    rows = max(1, _AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        rgb.paste(convert(image.crop(box)), box)
    return rgb


def _laid_over(over: Background, image: Image.Image) -> Image.Image:
    colour = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colour.size, over), colour).convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Grey values 0..65535 to 0..255, rounded: Pillow's own conversion saturates or drops the low byte."""
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError("its grey values leave the range of 16 bits; save it with 8 or 16 bits")
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")

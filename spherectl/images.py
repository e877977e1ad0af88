"""Images out: grids and strips, PNG files that say how they were made, arrays for the ADM evaluation suite.

Beside them, how far two images are apart.

Letters: B images, H height, W width.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from torch import Tensor

import spherectl
from spherectl.data.decode import open_image
from spherectl.data.transforms import as_image, to_uint8
from spherectl.documents import parse_table
from spherectl.errors import UsageError
from spherectl.files import replacing

_WHITE = 255
_KEY = "spherectl"

# Characters of provenance: the numbers, classes and chunks of 65,536 images (`provenance.MAX_IMAGES`) are 2 million.
MAX_PROVENANCE = 4 << 20

# IPTC photo metadata 2023.1, "Digital Source Type", as the XMP packet that a PNG carries (XMP part 3, section 1.1.5).
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP_KEY = "XML:com.adobe.xmp"
XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
   Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE_TYPE}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def grid(images: Tensor, columns: int | None = None, padding: int = 2) -> Tensor:
    """Images row by row on white.

    Args:
        images: (B, 3, H, W), floats in [0, 1] or uint8.
        columns: images a row; by default nearly a square, with full rows where B allows it (10 is 2 rows of 5).
        padding: white pixels between neighbours; none around the whole.

    Returns:
        uint8 (3, rows (H + padding) - padding, columns (W + padding) - padding). Unused places are white.

    Raises:
        UsageError: no images, or values out of range.
    """
    if images.ndim != 4 or len(images) == 0:
        raise UsageError(f"A grid needs images of shape (B, 3, H, W) with B > 0, got {tuple(images.shape)}.")
    pixels = images if images.dtype == torch.uint8 else to_uint8(images)  # (B, 3, H, W)
    count, channels, height, width = pixels.shape
    columns = min(columns or _square_columns(count), count)
    rows = -(-count // columns)
    shape = (channels, rows * (height + padding) - padding, columns * (width + padding) - padding)
    sheet = torch.full(shape, _WHITE, dtype=torch.uint8, device=pixels.device)
    for i, pil_image in enumerate(pixels):
        top, left = (i // columns) * (height + padding), (i % columns) * (width + padding)
        sheet[:, top : top + height, left : left + width] = pil_image
    return sheet


def strip(images: Tensor, padding: int = 2) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] as a grid of one row: uint8 (3, H, B (W + padding) - padding)."""
    return grid(images, columns=len(images), padding=padding)


def to_pil(images: Tensor) -> list[Image]:
    """Images as PIL images, such as those of `Model.reconstruct`.

    Args:
        images: (B, 3, H, W) or (3, H, W), floats in [0, 1] or uint8, on any device.

    Returns:
        One RGB image each; 0.5 is rounded to 128, as in the PNG files of `spherectl sample`.

    Raises:
        UsageError: another shape, or values out of range.

    >>> import spherectl, torch
    >>> spherectl.to_pil(torch.full((2, 3, 32, 32), 0.5))[0].getpixel((0, 0))
    (128, 128, 128)
    """
    batch = images[None] if images.ndim == 3 else images
    if batch.ndim != 4 or batch.shape[1] != 3:
        raise UsageError(f"Expected images of shape (B, 3, H, W), got {tuple(images.shape)}.")
    return [as_image(one) for one in (batch if batch.dtype == torch.uint8 else to_uint8(batch.detach()))]


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images, from each one's own mean squared error over pixels and channels.

    Args:
        a, b: both (B, 3, H, W) in [0, 1], or both uint8.

    Returns:
        (B,) float64 in dB, higher is better; infinite where the two are equal.
    """
    peak = 255 if a.dtype == torch.uint8 else 1
    return -10 * ((a.double() - b.double()).square().mean((1, 2, 3)) / peak**2).log10()


def save_png(path: Path, image: Tensor | Image, provenance: dict[str, Any] | None) -> None:
    """Write an image as PNG; the same image and provenance give the same bytes.

    Args:
        path: written whole or not at all.
        image: uint8 (3, H, W), on any device, or a PIL image of mode RGB.
        provenance: what decides the pixels, JSON-able. It is stored under the key "spherectl", beside the software's
            name and version and the IPTC mark for generated media. None: the file holds pixels and nothing else.

    Raises:
        UsageError: not a uint8 (3, H, W) tensor.
        FileError: the place cannot be written.
    """
    if isinstance(image, Tensor) and (image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3):
        raise UsageError(
            f"A PNG is made from uint8 of shape (3, H, W), got {image.dtype} of shape {tuple(image.shape)}."
        )
    text = PngInfo()
    if provenance is not None:
        text.add_text(_KEY, json.dumps(provenance, sort_keys=True, separators=(",", ":"), allow_nan=False))
        text.add_text("Software", f"spherectl {spherectl.__version__}")
        text.add_itxt(XMP_KEY, XMP)
    pil_image = as_image(image) if isinstance(image, Tensor) else image
    with replacing(path) as temporary:
        pil_image.save(temporary, format="PNG", pnginfo=text)


def save_animation(path: Path, frames: Tensor, fps: float) -> None:
    """Write frames as an animated WebP (lossless) or GIF, there and back again, without end.

    Args:
        path: ends in .webp or .gif; written whole or not at all.
        frames: uint8 (F, 3, H, W).
        fps: images a second.

    Raises:
        FileError: the place cannot be written.
    """
    there = [as_image(frame) for frame in frames]
    first, *others = [*there, *there[-2:0:-1]]
    options = {"save_all": True, "append_images": others, "duration": round(1000 / fps), "loop": 0}
    kind = path.suffix[1:].lower()
    with replacing(path) as temporary:
        first.save(temporary, format=kind, **(options | ({"lossless": True} if kind == "webp" else {})))


def read_provenance(path: Path) -> dict[str, Any] | None:
    """What `save_png` stored about an image, or None where the image carries nothing of ours.

    Returns:
        A table no deeper than `documents.MAX_DEPTH`, of whatever a stranger may have put there.

    Raises:
        FileError: the file is missing, no image, damaged, or its provenance is not the JSON table that we write.
    """
    with open_image(path) as pil_image:
        text = pil_image.text.get(_KEY) if isinstance(pil_image, PngImageFile) else None
    if text is None:
        return None
    return parse_table(text, f"What {path} says of how it was made", most_bytes=MAX_PROVENANCE)


def save_npz(path: Path, count: int, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
    """Write images as the ADM evaluation suite reads them: arr_0 uint8 (n, H, W, 3), arr_1 int64 (n,) if given.

    They are written as they come: 50,000 of 256 px are 10 GB.

    Args:
        path: written whole or not at all.
        count: n, images in all.
        batches: uint8 (B, 3, H, W), all of one size, with (B,) class numbers or None.

    Raises:
        UsageError: not such images, not so many, or labels that are not one an image.
        FileError: the place cannot be written.
    """
    size: tuple[int, ...] = ()
    written, labels = 0, []
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            for pixels, chosen in batches:
                if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
                    about = f"{pixels.dtype} {tuple(pixels.shape)}"
                    raise UsageError(f"An .npz is made from uint8 of shape (n, 3, H, W), got {about}.")
                if not size:
                    size = (*pixels.shape[2:], 3)
                    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *size)}
                    np.lib.format.write_array_header_1_0(file, header)
                array = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()  # (B, H, W, 3)
                if array.shape[1:] != size:
                    raise UsageError(f"Expected images of shape {size}, as the first, got {array.shape[1:]}.")
                file.write(array.data)
                written += len(array)
                labels += [] if chosen is None else [chosen.long().cpu()]
        if written != count:
            raise UsageError(f"Expected {count} images, got {written}.")
        if labels:
            together = torch.cat(labels)  # (n,)
            if together.shape != (count,):
                raise UsageError(f"Expected {count} labels, one an image, got shape {tuple(together.shape)}.")
            with archive.open("arr_1.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, together.numpy(), allow_pickle=False)


def _square_columns(count: int) -> int:
    """The smallest divisor of `count` from its root to twice that, else the root rounded up."""
    root = math.isqrt(count - 1) + 1
    return next((columns for columns in range(root, 2 * root) if count % columns == 0), root)

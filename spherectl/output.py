"""Where generated images go: a grid, a folder of files, or arrays. The place is checked before anything is computed.

Nothing is overwritten but what was named: a name made here is claimed first, so that two commands never share one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spherectl.api import Generated
from spherectl.data.transforms import to_uint8
from spherectl.errors import UsageError
from spherectl.files import claimed
from spherectl.images import grid, save_npz, save_png
from spherectl.places import check_writable

ONE_ROW = 20  # so many classes still stand side by side in a grid
PARALLEL_IMAGES = 2  # threads that compress PNGs beside the sampling

# Provenance of images of those numbers (n,) and labels (n,) or None, in a grid of so many columns.
About = Callable[[Tensor, Tensor | None, int | None], dict[str, Any]]

# Suffixes that mean a file of another kind, rather than a folder whose name has a dot in it.
_OTHER_FILES = r"\.[A-Za-z][A-Za-z0-9]{1,4}|\.safetensors"


class Kind(Enum):
    """What can be written."""

    GRID = ".png"
    ARRAYS = ".npz"
    FOLDER = ""


def kind(target: Path) -> Kind:
    """What is written to a target: its suffix says it."""
    suffix = target.suffix.lower()
    return Kind(suffix) if suffix in (Kind.GRID.value, Kind.ARRAYS.value) else Kind.FOLDER


def check_target(out: Path) -> None:
    """Refuse a place that cannot be written, before anything is computed.

    Raises:
        UsageError: the suffix means nothing here, or the name is taken by something else.
        FileError: no file can be made there.
    """
    is_folder = kind(out) is Kind.FOLDER
    new = not out.suffix or not os.path.isdir(out)  # noqa: PTH112 - Path.is_dir raises for some names
    if is_folder and new and re.fullmatch(_OTHER_FILES, out.suffix):
        raise UsageError(f"Expected a .png (a grid), an .npz (arrays) or a folder to write to, got {out}.")
    check_writable(out, folder=is_folder)


@dataclass(frozen=True)
class Collected:
    """All images of a run: bytes, a quarter of what they are as floats.

    Attributes:
        pixels: uint8 (n, 3, H, W).
        labels: (n,), or None for unconditional models.
        indices: (n,), as in `Generated`.
    """

    pixels: Tensor
    labels: Tensor | None
    indices: Tensor


def collect(batches: Iterable[Generated]) -> Collected:
    """Sample all batches, at least one, before anything is written."""
    parts = [(to_uint8(batch.images), batch.labels, batch.indices) for batch in batches]
    pixels, labels, indices = zip(*parts, strict=True)
    known = [one for one in labels if one is not None]
    return Collected(torch.cat(pixels), torch.cat(known) if known else None, torch.cat(indices))


def write_images(target: Path, batches: Iterable[Generated], count: int, about: About | None) -> int:
    """Write finished batches by the target's kind: one grid, one file of arrays, or a PNG each in a folder.

    A folder and arrays take the memory of two batches, however many there are.

    Args:
        target: checked by `check_target`, or claimed.
        batches: at least one.
        count: images in all.
        about: None leaves provenance out.

    Returns:
        How many files were written.

    Raises:
        FileError: a file cannot be written; what was there before under its name still is.
    """
    match kind(target):
        case Kind.GRID:
            write_grid(target, collect(batches), about)
        case Kind.ARRAYS:
            save_npz(target, count, ((to_uint8(batch.images), batch.labels) for batch in batches))
        case Kind.FOLDER:
            return _write_folder(target, batches, about)
    return 1


def write_named(
    out: Path | None, stem: str, batches: Iterable[Generated], count: int, about: About | None
) -> tuple[Path, int]:
    """`write_images` to the place that was asked for, or as one grid under a new name made of `stem`.

    Returns:
        Where they are, and how many files were written.
    """
    if out is not None:
        return out, write_images(out, batches, count, about)
    images = collect(batches)  # first, so that the claim on the name is short
    with claimed(stem) as target:
        write_grid(target, images, about)
    return target, 1


def write_grid(target: Path, images: Collected, about: About | None) -> None:
    """Write images as one grid, classes side by side where they are few; arguments as for `write_images`."""
    columns = _columns(images.labels, len(images.pixels))
    save_png(target, grid(images.pixels, columns), about(images.indices, images.labels, columns) if about else None)


def _write_folder(folder: Path, batches: Iterable[Generated], about: About | None) -> int:
    """Separate files, compressed beside the sampling; holds two batches at a time."""
    files = 0
    jobs: list[Future[None]] = []
    with ThreadPoolExecutor(PARALLEL_IMAGES) as pool:
        for batch in batches:
            _wait_for(jobs)
            for row, image in enumerate(to_uint8(batch.images)):
                index, label = (
                    batch.indices[row : row + 1],
                    None if batch.labels is None else batch.labels[row : row + 1],
                )
                path, table = folder / f"{int(index):06d}.png", about(index, label, None) if about else None
                jobs.append(pool.submit(save_png, path, image, table))
                files += 1
        _wait_for(jobs)
    return files


def _wait_for(jobs: list[Future[None]]) -> None:
    """Until all are done; then the list is empty. Raises what one of them raised."""
    for job in jobs:
        job.result()
    jobs.clear()


def _columns(labels: Tensor | None, count: int) -> int | None:
    """Columns of a grid: classes side by side where they are few; None: nearly a square."""
    different = 0 if labels is None else len(set(labels.tolist()))
    return different if 1 < different <= ONE_ROW and count > different else None

"""Putting two images together along a line or a mask, the start of harmonisation (section 6)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from spherectl.errors import UsageError
from spherectl.shown import quoted

Layout = Literal["left-right", "top-bottom", "diagonal", "anti-diagonal"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


def layout_mask(layout: Layout, size: int) -> Tensor:
    """Where the first image shows: (size, size) float32, 1 there and 0 where the second one does.

    The first image is at the left, at the top, below the diagonal (from the upper left to the lower right corner), or
    above the anti-diagonal. Pixels on a diagonal are its own.

    Raises:
        UsageError: there is no such layout.
    """
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    match layout:
        case "left-right":
            first = columns < size // 2
        case "top-bottom":
            first = rows < size // 2
        case "diagonal":
            first = columns <= rows
        case "anti-diagonal":
            first = rows + columns < size
        case _:
            raise UsageError(
                f"There is no layout {quoted(layout)}.", f"Those there are: {', '.join(LAYOUTS)}, or --mask."
            )
    return first.float()


def stitch(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Each pixel from one of two images, or from both where the mask lies between.

    Args:
        a, b: (B, 3, H, W).
        mask: (H, W) or (B, 1, H, W) in [0, 1]; 1 shows a.
    """
    return mask * a + (1 - mask) * b

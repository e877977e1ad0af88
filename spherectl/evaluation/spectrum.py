"""Whether patches show: how much of an image's spectrum lies where a pattern of the patch's period would put it.

A decoder makes each image in patches of p pixels; what repeats from patch to patch (a checkerboard, a frame around
each) has all its power on the lines of the spectrum that are multiples of 1 / p cycles a pixel. Natural images have
hardly more there than beside it.

Letters: B batch, N image side, p patch size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spherectl.data.transforms import to_grey


@dataclass(frozen=True)
class PatchLines:
    """Samples beside real images.

    Attributes:
        power: on the lines of the patch's frequency and its multiples, in that of real images.
        peak: on those lines over that on the lines beside them, in that of real images: soft images have little
            power on all of them, and a pattern still stands out. None where patches are too few for lines beside.
    """

    power: float
    peak: float | None


def line_powers(pixels: Tensor, patch: int) -> Tensor:
    """Mean powers on the patch's lines and on those beside, by image.

    Args:
        pixels: uint8 (B, 3, N, N).
        patch: p, a divisor of N.

    Returns:
        (B, 2) float64; the second is not a number where N / p < 4.
    """
    grey = to_grey(pixels)[:, 0].double()  # (B, N, N)
    power = torch.fft.fft2(grey, norm="ortho").abs().square()  # (B, N, N)
    on, beside = _lines(pixels.shape[-1], patch)
    return torch.stack([power[:, on].mean(1), power[:, beside].mean(1)], dim=1)


def patch_lines(samples: Tensor, real: Tensor) -> PatchLines:
    """What `line_powers` of samples (n, 2) are beside those of real images (m, 2)."""
    (ours_on, ours_beside), (real_on, real_beside) = samples.mean(0).tolist(), real.mean(0).tolist()
    peak = (ours_on / ours_beside) / (real_on / real_beside) if ours_beside > 0 and real_beside > 0 else None
    return PatchLines(ours_on / real_on, peak)


def _lines(side: int, patch: int) -> tuple[Tensor, Tensor]:
    """Masks (N, N) of the frequencies of which either part is a multiple of N / p, not 0, and of their neighbours."""
    step = side // patch
    k = torch.arange(side)
    multiple = (k % step == 0) & (k > 0)  # (N,)
    neighbour = (multiple.roll(1) | multiple.roll(-1)) & (k % step != 0) & (step >= 4)  # (N,)
    on = multiple[:, None] | multiple[None, :]
    return on, (neighbour[:, None] | neighbour[None, :]) & ~on

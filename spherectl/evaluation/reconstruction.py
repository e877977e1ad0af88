"""How close reconstructions come to their images, image by image: SSIM and LPIPS; PSNR is `images.psnr`.

Both sides are bytes, as a PNG would hold them. Every function gives one value an image, so that the caller may average
them or resample them.

Letters: B images, H and W their sides, C channels, h and w feature sides.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from spherectl.data.transforms import to_float
from spherectl.errors import UsageError
from spherectl.features import imagenet

SSIM_WINDOW_PX = 11

# Pixels compared at once, which bounds memory whatever the caller's batch: 16 images of 256 x 256.
_PIXELS = 2**20


# Wang et al., 2004: a Gaussian window of 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03
def ssim(originals: Tensor, reconstructions: Tensor) -> Tensor:
    """Structural similarity of each image, by torchmetrics: averaged over pixels and the three colour channels.

    Images are mirrored at their borders, so that every pixel has a window; the original drops the outer five rows.

    Args:
        originals, reconstructions: uint8 (B, 3, H, W).

    Returns:
        (B,) float64, -1 to 1; 1 for equal images.

    Raises:
        UsageError: the two are not uint8 images of one shape, or are smaller than the window.
    """
    _check(originals, reconstructions, smallest_px=SSIM_WINDOW_PX, name="SSIM")
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = []
    for some, others in _pieces(originals, reconstructions):
        # float64, because variances are differences of squares here
        value = structural_similarity_index_measure(
            to_float(others).double(), to_float(some).double(), reduction="none", data_range=1.0
        )
        assert isinstance(value, Tensor)  # a pair only where the full image is asked for
        values.append(value)
    return torch.cat(values)


# Zhang et al., CVPR 2018
@torch.no_grad()
def lpips(network: imagenet.LpipsFeatures, originals: Tensor, reconstructions: Tensor) -> Tensor:
    """LPIPS 0.1 on VGG16 of each image, at its own size, on the network's device.

    Args:
        network: `imagenet.load_lpips()`.
        originals, reconstructions: uint8 (B, 3, H, W).

    Returns:
        (B,) float64 on the images' device, at least 0; 0 for equal images, lower is better.

    Raises:
        UsageError: the two are not uint8 images of one shape, or are too small for VGG16's last stage.
    """
    _check(originals, reconstructions, smallest_px=imagenet.SMALLEST_PX, name="LPIPS")
    device = network.shift.device
    values = []
    for some, others in _pieces(originals, reconstructions):
        stages = zip(network(to_float(some.to(device))), network(to_float(others.to(device))), strict=True)
        # Squared differences of (B, C, h, w), summed over channels, averaged over positions, summed over stages.
        distances = [(a - b).square().sum(1).mean((1, 2)) for a, b in stages]  # five (B,)
        values.append(torch.stack(distances).sum(0).to(originals.device, torch.float64))
    return torch.cat(values)


def _pieces(originals: Tensor, reconstructions: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The two, some images at a time, of about `_PIXELS` pixels."""
    images = max(1, _PIXELS // (originals.shape[2] * originals.shape[3]))
    return zip(originals.split(images), reconstructions.split(images), strict=True)


def _check(originals: Tensor, reconstructions: Tensor, smallest_px: int = 1, name: str = "") -> None:
    """Refuse what is not two sets of bytes of one shape, and images smaller than the score called `name` takes."""
    for shown in (originals, reconstructions):
        if shown.dtype != torch.uint8 or shown.dim() != 4 or shown.shape[1] != 3:
            raise UsageError(
                f"Reconstructions are scored as uint8 (B, 3, H, W); these are {shown.dtype} {tuple(shown.shape)}."
            )
    if originals.shape != reconstructions.shape:
        raise UsageError(
            f"Reconstructions are scored against originals of their own shape; they are {tuple(reconstructions.shape)} "
            f"and the originals {tuple(originals.shape)}."
        )
    height, width = originals.shape[2:]
    if min(height, width) < smallest_px:
        raise UsageError(
            f"{name} needs images of at least {smallest_px} pixels a side; these are {width} x {height}.",
            f"Leave {name} out; PSNR takes any size.",
        )

"""How an image was measured: with pixels missing, with noise, at a lower resolution, or blurred.

A measurement is y = A x + noise. Beside A, each one has the closed form of

    argmin_x |A x - y|^2 + l |x - x_p|^2,

the x that explains y and is near a given x_p.

Letters: B images, H height, W width, s scale, l the weight lambda.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spherectl.checks import MAX_INDEX, check_number, check_seed, check_whole
from spherectl.data.transforms import to_grey
from spherectl.errors import UsageError
from spherectl.model import seeding

LEVELS = 255  # the unit of noise
MAX_BLUR_PX = 256.0  # standard deviation; three of them are more than any model's image
MAX_SIGMA = 1e6  # of noise, in levels


class Measurement(ABC):
    """How an image was measured: the linear map A, and its closed form."""

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """A x of images (B, 3, H, W)."""

    @abstractmethod
    def start(self, y: Tensor) -> Tensor:
        """A first image (B, 3, H, W) from a measurement, to begin the rounds with."""

    @abstractmethod
    def nearest(self, y: Tensor, x_p: Tensor, weight: float) -> Tensor:
        """argmin_x |A x - y|^2 + l |x - x_p|^2.

        Args:
            y: the measurement.
            x_p: (B, 3, H, W).
            weight: l > 0.
        """


@dataclass(frozen=True)
class Masked(Measurement):
    """Pixels that are known, and others that are not: inpainting; with a mask of ones, denoising.

    Attributes:
        mask: (H, W) or (B, 1, H, W), 1 where a pixel was measured, else 0.
    """

    mask: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Black where nothing is known."""
        return self.mask * x

    def start(self, y: Tensor) -> Tensor:
        """The measurement, its holes filled from their edges: each pixel with the mean of its known neighbours."""
        known = self.mask.expand(len(y), 1, *y.shape[2:])
        x, near = known * y, F.avg_pool2d(known, 3, 1, 1)
        while bool((edge := (known == 0) & (near > 0)).any()):
            x = torch.where(edge, F.avg_pool2d(x, 3, 1, 1) / near, x)
            known = known + edge
            near = F.avg_pool2d(known, 3, 1, 1)
        return x

    # (M y + l x_p) / (M + l), pixel by pixel
    def nearest(self, y: Tensor, x_p: Tensor, weight: float) -> Tensor:
        """As for every measurement."""
        return (self.mask * y + weight * x_p) / (self.mask + weight)


@dataclass(frozen=True)
class Pooled(Measurement):
    """Means of s x s pixels.

    Attributes:
        scale: s.
    """

    scale: int

    def apply(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H / s, W / s)."""
        return F.avg_pool2d(x, self.scale)

    def start(self, y: Tensor) -> Tensor:
        """Each value repeated s x s times."""
        return _replicated(y, self.scale)

    # A A^T = I / s^2, so x = x_p + A^T (y - A x_p) / (1 / s^2 + l), and A^T is replication over s^2
    def nearest(self, y: Tensor, x_p: Tensor, weight: float) -> Tensor:
        """As for every measurement."""
        share = 1 / self.scale**2
        return x_p + share * _replicated(y - self.apply(x_p), self.scale) / (share + weight)


@dataclass(frozen=True)
class Decimated(Measurement):
    """Every s-th pixel of every s-th row: inpainting from a grid.

    Attributes:
        scale: s.
    """

    scale: int

    def apply(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H / s, W / s)."""
        return x[:, :, :: self.scale, :: self.scale]

    def start(self, y: Tensor) -> Tensor:
        """Each pixel repeated s x s times."""
        return _replicated(y, self.scale)

    def nearest(self, y: Tensor, x_p: Tensor, weight: float) -> Tensor:
        """As for every measurement."""
        x = x_p.clone()
        x[:, :, :: self.scale, :: self.scale] = (y + weight * self.apply(x_p)) / (1 + weight)
        return x


class Blurred(Measurement):
    """Periodic convolution with a kernel.

    Args:
        kernel: (h, w) with the sum 1, centred.
        size: (H, W) of the images.

    Raises:
        UsageError: the kernel is larger than the images.
    """

    def __init__(self, kernel: Tensor, size: tuple[int, int]) -> None:
        height, width = kernel.shape
        if height > size[0] or width > size[1]:
            raise UsageError(f"A kernel of {height} x {width} does not fit images of {size[0]} x {size[1]}.")
        padded = torch.zeros(size, dtype=kernel.dtype, device=kernel.device)
        padded[:height, :width] = kernel
        self.transfer = torch.fft.rfft2(padded.roll((-(height // 2), -(width // 2)), (0, 1)))  # (H, W // 2 + 1)
        self.size = size

    def apply(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to the same."""
        blurred: Tensor = torch.fft.irfft2(self.transfer * torch.fft.rfft2(x), s=self.size)
        return blurred

    def start(self, y: Tensor) -> Tensor:
        """The blurred image itself."""
        return y

    # X = (conj(K) Y + l X_p) / (|K|^2 + l), frequency by frequency
    def nearest(self, y: Tensor, x_p: Tensor, weight: float) -> Tensor:
        """As for every measurement."""
        above = self.transfer.conj() * torch.fft.rfft2(y) + weight * torch.fft.rfft2(x_p)
        found: Tensor = torch.fft.irfft2(above / (self.transfer.abs().square() + weight), s=self.size)
        return found


def _replicated(small: Tensor, scale: int) -> Tensor:
    """Each pixel s x s times."""
    return small.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def gaussian_kernel(sigma: float) -> Tensor:
    """(h, h) of a Gaussian of standard deviation `sigma` in pixels, cut at three of them, with the sum 1.

    Raises:
        UsageError: the deviation is not above 0, or larger than `MAX_BLUR_PX`.
    """
    sigma = check_number(sigma, "sigma", math.ulp(0.0), MAX_BLUR_PX)
    reach = max(1, round(3 * sigma))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma).square())
    kernel = line[:, None] * line[None]
    return kernel / kernel.sum()


def kernel_of(pixels: Tensor) -> Tensor:
    """The kernel that an image shows: luminance over its sum.

    Args:
        pixels: uint8 (3, h, w).

    Returns:
        (h, w) float32 with the sum 1.

    Raises:
        UsageError: the image is black.
    """
    kernel = to_grey(pixels)[0].float()
    if not kernel.any():
        raise UsageError("The kernel is black: it shows no blur.", "A white pixel in the middle means none.")
    return kernel / kernel.sum()


def random_mask(count: int, size: int, missing: float, seed: int = 0, first_index: int = 0) -> Tensor:
    """Masks with pixels missing at random: (B, 1, size, size) float32, 1 where a pixel is known.

    Args:
        count: B.
        size: side.
        missing: the share that is missing, 0 to 1, each pixel by itself.
        seed: of the mask.
        first_index: number of the first image; with the seed it decides an image's mask.
    """
    count, first_index = check_whole(count, "count", 1), check_whole(first_index, "first_index", 0, MAX_INDEX)
    missing, seed = check_number(missing, "missing", 0, 1), check_seed(seed)
    numbers = torch.arange(first_index, first_index + count)
    uniform = seeding.uniform(seed, seeding.MEASUREMENT, numbers, size * size)
    return (uniform >= missing).float().reshape(count, 1, size, size)


# y = A x + sigma e
def measured(
    images: Tensor,
    measurement: Measurement,
    *,
    sigma: float = 0.0,
    grey: bool = False,
    seed: int = 0,
    first_index: int = 0,
) -> Tensor:
    """Measure images: the damaged versions of true images.

    Args:
        images: (B, 3, H, W) in [0, 1].
        measurement: how.
        sigma: standard deviation of the noise, of 255 levels; values outside [0, 1] are kept.
        grey: the same noise in all three channels, as a grey camera has it.
        seed: of the noise.
        first_index: number of the first image; with the seed it decides an image's noise.
    """
    sigma, seed = check_number(sigma, "sigma", 0, MAX_SIGMA), check_seed(seed)
    first_index = check_whole(first_index, "first_index", 0, MAX_INDEX)
    y = measurement.apply(images)
    if sigma == 0:
        return y
    numbers = torch.arange(first_index, first_index + len(y))
    shape = (1 if grey else y.shape[1], *y.shape[2:])
    return y + sigma / LEVELS * seeding.noise(seed, seeding.MEASUREMENT, numbers, shape, round=1)


def misfit(measurement: Measurement, x: Tensor, y: Tensor) -> Tensor:
    """How far images are from explaining their measurements: (B,) RMS of A x - y, of 255 levels.

    Missing pixels do not count.

    Args:
        measurement: A.
        x: (B, 3, H, W) in [0, 1].
        y: measurements.
    """
    seen = (measurement.apply(torch.ones_like(x)) > 0).float()
    squares = seen * (measurement.apply(x) - y).square()
    return LEVELS * (squares.sum((1, 2, 3)) / seen.sum((1, 2, 3))).sqrt()

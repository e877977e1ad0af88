"""Restoring a measured picture by plug-and-play splitting with the sphere as prior (SP3, arXiv 2606.16396).

A measurement is y = A x + noise. Starting from what y shows, repeat: turn the picture's latent a little and decode it,
x_p = D(f(f(E(x)) + tan(a) e)); then take the x that explains y and stays near x_p,

    argmin_x |A x - y|^2 + l |x - x_p|^2,

which has a closed form for every measurement here.

Letters: B pictures, H height, W width, s scale, l the weight lambda.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spherectl.api import Model
from spherectl.editing.rounds import Classes, rounds
from spherectl.errors import UsageError


class Measurement(ABC):
    """How a picture was measured: the linear map A, and what it means for the closed form."""

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """A x of pictures (B, 3, H, W)."""

    @abstractmethod
    def start(self, y: Tensor) -> Tensor:
        """A first picture (B, 3, H, W) from a measurement, to begin the rounds with."""

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

    # The unknown pixels are filled with the mean of the known ones.
    def start(self, y: Tensor) -> Tensor:
        """The measurement, its unknown pixels filled with the mean colour of the known ones."""
        mask = self.mask.expand(len(y), 1, *y.shape[2:])
        mean = (mask * y).sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True).clamp(min=1)
        return mask * y + (1 - mask) * mean

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
        size: (H, W) of the pictures.

    Raises:
        UsageError: the kernel is larger than the pictures.
    """

    def __init__(self, kernel: Tensor, size: tuple[int, int]) -> None:
        height, width = kernel.shape
        if height > size[0] or width > size[1]:
            raise UsageError(f"A kernel of {height} x {width} does not fit pictures of {size[0]} x {size[1]}.")
        padded = torch.zeros(size, dtype=kernel.dtype, device=kernel.device)
        padded[:height, :width] = kernel
        self.transfer = torch.fft.rfft2(padded.roll((-(height // 2), -(width // 2)), (0, 1)))  # (H, W // 2 + 1)
        self.size = size

    def apply(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to the same."""
        blurred: Tensor = torch.fft.irfft2(self.transfer * torch.fft.rfft2(x), s=self.size)
        return blurred

    def start(self, y: Tensor) -> Tensor:
        """The blurred picture itself."""
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
    """(h, h) of a Gaussian of standard deviation `sigma` in pixels, cut at three of them, with the sum 1."""
    reach = max(1, round(3 * sigma))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma).square())
    kernel = line[:, None] * line[None]
    return kernel / kernel.sum()


def restore(
    model: Model,
    y: Tensor,
    measurement: Measurement,
    *,
    count: int,
    noise_deg: float,
    weight: float,
    classes: Classes = None,
    seed: int = 0,
    first_index: int = 0,
) -> Iterator[Tensor]:
    """Restore pictures from their measurements.

    Args:
        model: the prior.
        y: measurements of B pictures, in [0, 1] but for noise.
        measurement: how they were made.
        count: rounds, at least 1.
        noise_deg: angle a by which each round turns the latents, from 0 to below 90; fresh noise in each round.
        weight: l > 0; a large one trusts the model, a small one the measurement.
        classes: of the pictures; None: the null class.
        seed: of the noise.
        first_index: number of the first picture; with the seed it decides a picture's noise.

    Yields:
        After each round (B, 3, H, W) float32 in [0, 1].

    Raises:
        UsageError: an argument is out of range.
    """
    if count < 1 or weight <= 0:
        raise UsageError(f"Expected at least 1 round and a weight above 0; got {count} and {weight:g}.")
    x = measurement.start(y).clamp(0, 1)
    for k in range(1, count + 1):
        turned = rounds(
            model,
            x,
            classes,
            count=1,
            noise_deg=noise_deg,
            noise="fresh",
            seed=seed,
            first_index=first_index,
            first_round=k,
        )
        x = measurement.nearest(y, next(turned), weight).clamp(0, 1)
        yield x

"""The damages of `experiments.restoration`, what each is compared with, and the settings that are tried.

Letters: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spherectl.cli.degradation import BLUR, MISSING, SCALE
from spherectl.editing.measurements import Blurred, Masked, Measurement, Pooled, gaussian_kernel, random_mask
from spherectl.editing.restoration import SIGMAS, Task

ROUNDS = (1, 2, 4, 8)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One kind of damage.

    Attributes:
        task: its name.
        damage: in words.
        baseline: the function of scikit-image that it is compared with.
        by: that function of one image's measurement (H, W, C), its mask (H, W) and a parameter.
        parameters: of the baseline, tried on training images; one alone where it has none.
        angles_deg: by which rounds turn the latent, tried.
        weights: lambda, tried.
    """

    task: Task
    damage: str
    baseline: str
    by: Callable[[Array, Array, float], Array]
    parameters: tuple[float, ...]
    angles_deg: tuple[float, ...]
    weights: tuple[float, ...]

    @property
    def sigma(self) -> float:
        """Noise of the measurement, of 255 levels."""
        return SIGMAS[self.task]

    def measurement(self, count: int, size: int, seed: int) -> Measurement:
        """A of `count` images; each has missing pixels of its own."""
        match self.task:
            case "inpaint":
                return Masked(random_mask(count, size, MISSING, seed))
            case "denoise":
                return Masked(torch.ones(1, 1, size, size))
            case "upscale":
                return Pooled(SCALE)
        return Blurred(gaussian_kernel(BLUR), (size, size))

    def compared(self, how: Measurement, y: Tensor, parameter: float, *, grey: bool) -> Tensor:
        """What the baseline makes of measurements: (B, 3, H, W) in [0, 1].

        Args:
            how: A.
            y: measurements.
            parameter: of the baseline.
            grey: the three channels are one, which alone is computed.
        """
        known = how.mask if isinstance(how, Masked) else y[:, :1]
        pairs = zip(y[:, : 1 if grey else 3], known.expand(len(y), -1, -1, -1), strict=True)
        found = [self.by(one.permute(1, 2, 0).double().numpy(), mask[0].numpy(), parameter) for one, mask in pairs]
        images = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float()  # (B, C, H, W)
        return images.expand(-1, 3, -1, -1).clamp(0, 1)


def biharmonic(image: Array, known: Array, _: float) -> Array:
    """The smoothest filling of the missing pixels."""
    from skimage.restoration import inpaint_biharmonic

    return np.asarray(inpaint_biharmonic(image, known == 0, channel_axis=-1))


def total_variation(image: Array, _: Array, weight: float) -> Array:
    """The nearest image of small total variation."""
    from skimage.restoration import denoise_tv_chambolle

    return np.asarray(denoise_tv_chambolle(image, weight=weight, channel_axis=-1))


def bicubic(image: Array, _: Array, order: float) -> Array:
    """Cubic splines through the small image."""
    from skimage.transform import resize

    height, width, channels = image.shape
    return np.asarray(resize(image, (SCALE * height, SCALE * width, channels), order=int(order)))


def wiener(image: Array, _: Array, balance: float) -> Array:
    """Wiener's filter, with skimage's prior of small second differences."""
    from skimage import restoration

    kernel = gaussian_kernel(BLUR).double().numpy()
    return np.stack([restoration.wiener(one, kernel, balance) for one in image.transpose(2, 0, 1)], axis=-1)


CASES = (
    Case(
        "inpaint",
        f"{MISSING:.0%} of the pixels missing, at random",
        "skimage.restoration.inpaint_biharmonic",
        biharmonic,
        parameters=(0.0,),
        angles_deg=(0.0, 20.0, 40.0),
        weights=(0.01, 0.1, 1.0),
    ),
    Case(
        "denoise",
        f"noise of {SIGMAS['denoise']:g} levels",
        "skimage.restoration.denoise_tv_chambolle",
        total_variation,
        parameters=(0.05, 0.1, 0.125, 0.15, 0.175, 0.2, 0.3),
        angles_deg=(0.0, 20.0, 40.0),
        weights=(1.5, 3.0, 5.0, 10.0, 20.0),
    ),
    Case(
        "upscale",
        f"means of {SCALE} x {SCALE} pixels",
        "skimage.transform.resize",
        bicubic,
        parameters=(3.0,),
        angles_deg=(45.0, 60.0, 75.0),
        weights=(0.001, 0.01, 0.1),
    ),
    Case(
        "deblur",
        f"Gaussian blur of {BLUR:g} pixels, noise of {SIGMAS['deblur']:g} levels",
        "skimage.restoration.wiener",
        wiener,
        parameters=(1e-4, 3e-4, 6e-4, 1e-3, 2e-3, 3e-3, 1e-2),
        angles_deg=(0.0, 20.0, 40.0),
        weights=(0.003, 0.01, 0.03),
    ),
)

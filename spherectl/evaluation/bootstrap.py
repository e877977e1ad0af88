"""Bootstrap intervals for scores of samples against a fixed reference, paired between models (Efron, 1979).

The samples are resampled with replacement, as many as there are; the reference is not. An interval says how far a
score would move with other noise, and nothing about another choice of reference images. A resample is a row of
multiplicities, how often it holds each image. The same seed and number of images give the same rows, so scores on the
same sample indices are resampled together, and the noise that they share cancels in their difference.

Resampling repeats images. That raises a Frechet distance: a resample strays from the samples as they stray from the
model's distribution, so the bias of few images comes in twice, and the percentiles of the replicates themselves would
lie above the score. An interval here is the percentiles of the replicates' deviations from their own mean, put around
the score. It does not remove the bias that the score has of its own: compare scores of the same number of images only.

Recall has no replicates: repeats shrink the balls around the samples, which reach to a sample's k-th neighbour.

Letters: n images, R resamples.
m (R, n) are multiplicities: integers, each row summing to n.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spherectl.errors import UsageError


def multiplicities(count: int, resamples: int, seed: int) -> Tensor:
    """How often each resample holds each of `count` images: int32 (R, n).

    Row k depends on `count`, `seed` and k alone, so that more resamples begin with the same rows.

    Args:
        count: images n, at least 1.
        resamples: R, at least 2.
        seed: of NumPy's PCG64.

    Raises:
        UsageError: there is nothing to draw from, or a single resample.
    """
    if count < 1 or resamples < 2:
        raise UsageError(
            f"A bootstrap interval needs images and at least 2 resamples; there were {count} and {resamples}."
        )
    generator = np.random.Generator(np.random.PCG64(seed))
    rows = np.empty((resamples, count), dtype=np.int32)
    for row in rows:
        row[:] = np.bincount(generator.integers(count, size=count), minlength=count)
    return torch.from_numpy(rows)


def mean_replicates(values: Tensor, m: Tensor) -> Tensor:
    """The mean of each resample, for scores that are means over images: accuracy, precision, PSNR, SSIM, LPIPS.

    Args:
        values: (n,), one an image; for a share, whether the image counts.
        m: multiplicities (R, n).

    Returns:
        (R,) float64.

    Raises:
        UsageError: `m` is of another number of images.
    """
    check_multiplicities(values, m)
    return m.double() @ values.detach().cpu().double() / len(values)


def interval(score: float, replicates: Tensor, level: float = 0.95) -> tuple[float, float]:
    """Percentiles of the replicates' deviations from their own mean, put around the score.

    Args:
        score: of the samples as they are.
        replicates: (R,), of the same statistic or of one that differs from it by a constant.
        level: share of the replicates between the ends, above 0 and below 1.

    Returns:
        Low and high end; they are not cut where the score could not go.

    Raises:
        UsageError: the level is out of range, or there are fewer than two replicates.
    """
    if not 0 < level < 1:
        raise UsageError(f"The level of an interval lies between 0 and 1; it was {level:g}.")
    if len(replicates) < 2:
        raise UsageError(f"A bootstrap interval needs at least 2 resamples; there were {len(replicates)}.")
    values = replicates.double()
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = (values - values.mean()).quantile(ends).tolist()
    return score + low, score + high


@dataclass(frozen=True)
class Difference:
    """One score less another, with its interval.

    Attributes:
        value: a - b.
        low, high: ends of the interval; where 0 is outside, the two differ by more than the noise of the samples.
    """

    value: float
    low: float
    high: float


def difference(
    score_a: float, replicates_a: Tensor, score_b: float, replicates_b: Tensor, level: float = 0.95
) -> Difference:
    """The difference of two scores, resample by resample.

    Args:
        score_a, score_b: of the samples as they are.
        replicates_a, replicates_b: (R,), of the same multiplicities where the samples share their indices.
        level: as in `interval`.

    Raises:
        UsageError: the two have different numbers of resamples, or what `interval` raises.
    """
    if len(replicates_a) != len(replicates_b):
        raise UsageError(
            f"Scores are compared resample by resample; one has {len(replicates_a)}, the other {len(replicates_b)}."
        )
    value = score_a - score_b
    return Difference(value, *interval(value, replicates_a - replicates_b, level))


def check_multiplicities(values: Tensor, m: Tensor, min_count: int = 1) -> None:
    """Refuse multiplicities of other images, and fewer images than `min_count`."""
    if m.shape[1] != len(values):
        raise UsageError(
            f"The resamples are of {m.shape[1]} images and the scores of {len(values)}; they must be of the same."
        )
    if len(values) < min_count:
        raise UsageError(
            f"A bootstrap interval of this score needs at least {min_count} images; there were {len(values)}."
        )

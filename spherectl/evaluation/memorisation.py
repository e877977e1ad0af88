"""Whether a model gives its training images back: nearest training images of samples, against those of test images.

A sample's nearest training image alone says little: garments of one kind are all alike. So the same is measured for
test images, which the model has not seen, and a sample is called a near-copy where it lies closer to a training image
than all but a small share of the test images do.

Closeness is the distance in pixels, small shifts and noise removed (`neighbours.aligned_distances`), times its ratio
to the mean distance of the next nearest training images. The ratio, which Carlini et al. (2023, Extracting Training
Data from Diffusion Models) compare, makes up for crowded neighbourhoods; by itself it misses noisy copies of plain
images, whose neighbours are as near as the noise. The distance by itself misses noisy copies of rich images. On
Fashion-MNIST their product found the most of both.

The threshold is an order statistic of half of the test images, chosen so that a fresh test image falls below it with
at most the probability `rate` (split conformal prediction; Vovk, Gammerman and Shafer, 2005). The other half, which
the threshold has not seen, checks it.

Letters: n samples, m test images, N training images, B batch, S their side, D width of the features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spherectl.data.datasets import ImageSet
from spherectl.errors import UsageError
from spherectl.evaluation.neighbours import COPY_SIZE, CROWD, SMALLEST, Embed, Neighbours, find_neighbours, survey
from spherectl.images import grid
from spherectl.model import seeding
from spherectl.progress import Progress

# Samples that an evaluation looks at, and test images that it compares them with.
MAX_SAMPLES = 2000
MAX_TEST = 4000

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Distances:
    """Distances to the nearest training image, of samples and of test images.

    Attributes:
        samples, test: quantiles, by "1%", "5%", "25%", "50%", "75%", "95%".
        median_ratio: median of the samples over that of the test images; not a number where the latter is 0.
    """

    samples: dict[str, float]
    test: dict[str, float]
    median_ratio: float


@dataclass(frozen=True)
class Summary:
    """The numbers that a report prints.

    Attributes:
        samples: how many samples.
        near_copies: how many of them are flagged.
        share: the same as a share.
        test_images: how many test images checked the threshold.
        test_share: share of them that is flagged.
        rate: share of test images that the threshold is made for.
        threshold: samples of lower closeness are flagged, in levels.
        close_in_features: share of samples nearer in features than all but `rate` of the test images.
        pixels: distances in levels of 255.
        features: distances in units of the features.
    """

    samples: int
    near_copies: int
    share: float
    test_images: int
    test_share: float
    rate: float
    threshold: float
    close_in_features: float
    pixels: Distances
    features: Distances


@dataclass(frozen=True, eq=False)
class Memorisation:
    """What `memorisation` found.

    Attributes:
        samples: neighbours of the n samples.
        test: neighbours of m test images.
        test_index: (m,) int64, which test images.
        calibration: (m,) bool, those that set the thresholds; the others check them.
        rate: share of test images that the thresholds are made for.
        threshold: images of lower closeness are flagged, in levels.
        feature_threshold: the same for distances in features, which flag nothing by themselves.
    """

    samples: Neighbours
    test: Neighbours
    test_index: Tensor
    calibration: Tensor
    rate: float
    threshold: float
    feature_threshold: float

    @property
    def flagged(self) -> Tensor:
        """(n,) bool: the near-copies among the samples."""
        return _flag(self.samples, self.threshold)

    @property
    def test_flagged(self) -> Tensor:
        """(m,) bool: the test images that would be called near-copies."""
        return _flag(self.test, self.threshold)

    def summary(self) -> Summary:
        """The numbers that a report prints."""
        checked = self.test_flagged[~self.calibration]
        return Summary(
            samples=len(self.samples),
            near_copies=int(self.flagged.sum()),
            share=_share(self.flagged),
            test_images=len(checked),
            test_share=_share(checked),
            rate=self.rate,
            threshold=self.threshold,
            close_in_features=_share(self.samples.feature_distance < self.feature_threshold),
            pixels=_distances(self.samples.pixel_distance, self.test.pixel_distance),
            features=_distances(self.samples.feature_distance, self.test.feature_distance),
        )

    def sentence(self) -> str:
        """The same in words."""
        one = self.summary()
        return (
            f"{one.near_copies:,} of {one.samples:,} samples ({one.share:.1%}) are near-copies of training images by a "
            f"measure that says so of {one.test_share:.1%} of {one.test_images:,} held-out test images. Median "
            f"distance to the nearest training image: {one.pixels.samples['50%']:.3g} levels of 255 in pixels "
            f"(test images {one.pixels.test['50%']:.3g}), {one.features.samples['50%']:.3g} in features "
            f"(test images {one.features.test['50%']:.3g})."
        )


@torch.no_grad()
def memorisation(
    samples: Tensor,
    train: ImageSet,
    test: ImageSet,
    embed: Embed,
    *,
    train_features: Tensor | None = None,
    mirrored: bool = False,
    rate: float = 0.01,
    max_test: int = MAX_TEST,
    seed: int = 0,
    progress: Progress | None = None,
) -> Memorisation:
    """Nearest training images of samples and of test images, and which samples are near-copies.

    Memory beside the samples: 3.3 KB and 4 D bytes a training image, and less than 0.2 GB.

    Args:
        samples: uint8 (n, 3, S, S), what a PNG would hold.
        train: what the model was trained on, at least 21 images of S x S.
        test: images of the same kind that it was not trained on, S x S.
        embed: uint8 (B, 3, S, S) to float features (B, D).
        train_features: (N, D), what `embed` gives for the training images in order, where that is at hand.
        mirrored: whether mirrored training images count too; true where training flips them (data.flip).
        rate: share of test images that may be called near-copies, above 0 and below 0.5.
        max_test: test images to compare with, chosen at random; half of them set the threshold.
        seed: of that choice.
        progress: called with images done and images in all.

    Raises:
        UsageError: images of other shapes, too few of them, or features that do not fit.
    """
    size = train.image_size
    if samples.dtype != torch.uint8 or samples.ndim != 4 or samples.shape[1] != 3 or not len(samples):
        raise UsageError(f"Expected samples uint8 (n, 3, S, S) with n > 0, got {samples.dtype} {tuple(samples.shape)}.")
    if samples.shape[2:] != (size, size):
        raise UsageError(
            f"Samples and training images must be of one size to be compared; samples are {samples.shape[3]} x "
            f"{samples.shape[2]}, training images {size} x {size}."
        )
    check_sets(train, test, rate)
    chosen = seeding.permutation(seed, seeding.ORDER, 0, len(test))[:max_test]  # (m,)
    setting = (len(chosen) + 1) // 2
    rank = _rank(rate, setting)
    if rank < 1:
        raise _too_few(rate, len(chosen))
    total, done = len(train) + len(chosen) + len(samples), 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    training = survey(train, embed, train_features, tell)
    of_test = find_neighbours(
        training, len(chosen), lambda some: test.gather(chosen[some]), embed, mirrored=mirrored, tell=tell
    )
    of_samples = find_neighbours(
        training, len(samples), lambda some: samples[some].cpu(), embed, mirrored=mirrored, tell=tell
    )
    return Memorisation(
        samples=of_samples,
        test=of_test,
        test_index=chosen,
        calibration=torch.arange(len(chosen)) < setting,
        rate=rate,
        threshold=float(closeness(of_test)[:setting].sort().values[rank - 1]),
        feature_threshold=float(of_test.feature_distance[:setting].sort().values[rank - 1]),
    )


def closeness(found: Neighbours) -> Tensor:
    """Distance to the nearest training image times its ratio to that of the next: (n,) float64, in levels of 255."""
    distance, crowd = found.pixel_distance, found.crowd_distance
    return torch.where(distance > 0, distance.square() / crowd, 0.0)  # the crowd is no nearer than the nearest


def check_sets(train: ImageSet, test: ImageSet, rate: float = 0.01) -> None:
    """Refuse sets that near-copies cannot be told from chance with; `memorisation` does so too.

    Raises:
        UsageError: they differ in size, are too small, or too few; or the rate is out of range.
    """
    size = train.image_size
    if test.image_size != size:
        raise UsageError(
            f"Training and test images must be of one size to be compared; training images are {size} x {size}, test "
            f"images {test.image_size} x {test.image_size}."
        )
    if size < SMALLEST:
        raise UsageError(f"Near-copies are looked for among images of at least {SMALLEST} px; these are {size} px.")
    if len(train) <= CROWD:
        raise UsageError(
            f"How crowded a neighbourhood is shows from {CROWD} training images beside the nearest; there are "
            f"{len(train)} in all."
        )
    if not 0 < rate < 0.5:
        raise UsageError(f"The share of test images that may be flagged is above 0 and below 0.5; got {rate}.")
    if _rank(rate, (len(test) + 1) // 2) < 1:
        raise _too_few(rate, len(test))


def neighbour_image(result: Memorisation, samples: Tensor, train: ImageSet, max_rows: int = 16) -> Tensor:
    """The samples closest to training images, one a row, beside those training images.

    Args:
        result: what `memorisation` gave for these samples and this training set.
        samples: uint8 (n, 3, S, S).
        train: the training set.
        max_rows: rows.

    Returns:
        uint8 (3, H, W): rows of the sample, its nearest training image in pixels moved to where it fits best (edges
        repeated), and the nearest in features; the closest first.

    Raises:
        UsageError: other samples than the result's, or no row is asked for.
    """
    found = result.samples
    if len(samples) != len(found) or max_rows < 1:
        raise UsageError(
            f"Expected the {len(found)} samples of the result and at least 1 row, got {len(samples)} samples and "
            f"{max_rows} rows."
        )
    rows = closeness(found).argsort(stable=True)[:max_rows]
    size = samples.shape[-1]
    scale = max(1.0, size / COPY_SIZE)
    in_pixels, in_features = train.gather(found.pixel_index[rows]), train.gather(found.feature_index[rows])
    tiles = []
    for row, nearest, alike in zip(rows.tolist(), in_pixels, in_features, strict=True):
        lines, columns = (
            torch.arange(size).sub(round(by * scale)).clamp(0, size - 1) for by in found.shift[row].tolist()
        )
        moved = nearest[:, lines][:, :, columns]  # (3, S, S)
        tiles += [samples[row].cpu(), moved.flip(-1) if found.mirrored[row] else moved, alike]
    return grid(torch.stack(tiles), columns=3)


def _rank(rate: float, setting: int) -> int:
    """Place from below, from 1, of the score that sets the threshold; 0: there are too few for one.

    A fresh score is as likely to fall into each gap between k others, so below the j-th lowest in j / (k + 1).
    """
    return math.floor(rate * (setting + 1) + 1e-9)


def _too_few(rate: float, count: int) -> UsageError:
    least = 2 * (math.ceil(1 / rate - 1e-9) - 1)
    return UsageError(
        f"A threshold that {rate:.2%} of test images may fall below needs at least {least} of them, half to set it "
        f"and half to check it; there are {count}."
    )


def _flag(found: Neighbours, threshold: float) -> Tensor:
    """An exact copy is one even where so many test images are copies that the threshold is 0."""
    return (closeness(found) < threshold) | (found.pixel_distance == 0)


def _share(which: Tensor) -> float:
    return float(which.double().mean())


def _distances(samples: Tensor, test: Tensor) -> Distances:
    levels = torch.tensor(QUANTILES, dtype=torch.float64)
    of_samples, of_test = (
        dict(zip((f"{level:.0%}" for level in QUANTILES), each.quantile(levels).tolist(), strict=True))
        for each in (samples, test)
    )
    return Distances(of_samples, of_test, of_samples["50%"] / of_test["50%"] if of_test["50%"] else math.nan)

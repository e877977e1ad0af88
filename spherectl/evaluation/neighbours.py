"""The nearest training images of images: in a network's features, and in pixels in spite of small shifts and noise.

All training images are searched twice for candidates: by the features, and by the luminance of 7 x 7 cells at every
shift of up to 2 pixels. `aligned_distances` then compares the image with each candidate.

Images above 32 px are compared as 32 px copies, area-averaged; a shift of 2 is then a sixteenth of the side. Cells
are whole numbers and sums of their squares stay below 2^24, so float32 is exact; `aligned_distances` is exact in
float64. So nothing but `embed` can make a number depend on batches or threads.

Letters: n images, N training images, B batch, S their side, w side of the copies (at most 32), s the largest shift,
P placements, K candidates, C cells, D width of the features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spherectl.data.datasets import ImageSet
from spherectl.data.transforms import to_grey
from spherectl.errors import UsageError

COPY_SIZE = 32
SHIFT = 2
SMALLEST = 12  # side of an image: fewer than 8 x 8 pixels inside the margins of the largest shift tell little apart

CELLS = 7
BY_PIXELS = 64
BY_FEATURES = 16

# How many of the next nearest training images tell how crowded a neighbourhood is.
CROWD = 20

# At most this share of a squared distance is taken for noise, because a fine pattern of an image looks like noise too.
NOISE_SHARE = 0.5

# Where a training image may lie over an image, as (down, right) in pixels of the copies, the smallest shift first.
SHIFTS = sorted(
    ((down, right) for down in range(-SHIFT, SHIFT + 1) for right in range(-SHIFT, SHIFT + 1)),
    key=lambda shift: (abs(shift[0]) + abs(shift[1]), shift),
)

_BATCH = 128  # images embedded at once
_ROWS, _COLUMNS = 16, 1024  # images by training images searched at once: what fits a core's cache

Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest training images of a set of images.

    Attributes:
        pixel_index: (n,) int64, the nearest by `aligned_distances`.
        pixel_distance: (n,) float64, its distance in levels of 255.
        crowd_distance: (n,) float64, the mean distance of the next 20.
        shift: (n, 2) int64, pixels of the copies by which it has to move down and right to lie over the image.
        mirrored: (n,) bool, whether it has to be mirrored after that.
        feature_index: (n,) int64, the nearest by Euclidean distance of the features.
        feature_distance: (n,) float64, in units of the features.
    """

    pixel_index: Tensor
    pixel_distance: Tensor
    crowd_distance: Tensor
    shift: Tensor
    mirrored: Tensor
    feature_index: Tensor
    feature_distance: Tensor

    def __len__(self) -> int:
        return len(self.pixel_index)


@dataclass(frozen=True, eq=False)
class Training:
    """All training images, as the searches want them.

    Attributes:
        copies: (N, 3, w, w) uint8.
        cells: (C + 1, N) float32: -2 c, c the cells of what lies inside the margins; and a row of ones.
        cell_squares: (N,) float32, |c|^2.
        features: (N, D) float32.
        mean: (D,) float32, of the features.
        feature_squares: (N,) float32, |b - mean|^2.
    """

    copies: Tensor
    cells: Tensor
    cell_squares: Tensor
    features: Tensor
    mean: Tensor
    feature_squares: Tensor


def survey(train: ImageSet, embed: Embed, features: Tensor | None, tell: Callable[[int], None]) -> Training:
    """Read all training images once.

    Args:
        train: N images of at least 12 px.
        embed: uint8 (B, 3, S, S) to float features (B, D).
        features: (N, D), what `embed` gives, where that is at hand.
        tell: called with the number of images in each batch done.

    Raises:
        UsageError: features of other shapes, or with values that are not finite.
    """
    known = None if features is None else _check_features(features, len(train))  # (N, D)
    side = min(train.image_size, COPY_SIZE)
    copies = torch.empty(len(train), 3, side, side, dtype=torch.uint8)
    cells = torch.ones(CELLS**2 + 1, len(train))
    for some in torch.arange(len(train)).split(_BATCH):
        images = train.gather(some)  # (B, 3, S, S)
        copies[some] = shrink(images)
        inner = to_grey(copies[some])[:, 0, SHIFT : side - SHIFT, SHIFT : side - SHIFT]  # (B, w - 2s, w - 2s)
        cells[:-1, some] = -2 * _cells(inner).T
        if features is None:
            own = _check_features(embed(images), len(images))  # (B, D)
            known = own.new_empty(len(train), own.shape[1]) if known is None else known
            known[some] = own
        tell(len(some))
    assert known is not None, "there are images"
    mean = known.mean(0)
    squares = torch.cat([(rows - mean).square().sum(1) for rows in known.split(_BATCH)])
    return Training(copies, cells, cells[:-1].square().sum(0) / 4, known, mean, squares)


def find_neighbours(
    training: Training,
    count: int,
    gather: Callable[[Tensor], Tensor],
    embed: Embed,
    *,
    mirrored: bool,
    tell: Callable[[int], None],
) -> Neighbours:
    """The nearest training images of images.

    Args:
        training: what `survey` made of the training set.
        count: n, at least 1.
        gather: image numbers (B,) to uint8 (B, 3, S, S).
        embed: the same as the survey's.
        mirrored: whether mirrored training images count too.
        tell: called with the number of images in each batch done.

    Raises:
        UsageError: features of other shapes than the training images', or with values that are not finite.
    """
    rows: list[tuple[int, float, float, int]] = []  # index, distance, the crowd's distance, placement
    indices, distances = [], []
    for some in torch.arange(count).split(_BATCH):
        images = gather(some)  # (B, 3, S, S)
        copies = shrink(images)  # (B, 3, w, w)
        by_features, apart = _search_features(training, _check_features(embed(images), len(images)))  # (B, K) each
        by_pixels = _search_pixels(training, copies, mirrored)  # (B, K)
        for copy, *candidates in zip(copies, by_pixels, by_features, strict=True):
            rows.append(_nearest(training, copy, torch.cat(candidates).unique(), mirrored))
        nearest = apart.argmin(1, keepdim=True)  # (B, 1); of equals the first
        indices.append(by_features.gather(1, nearest)[:, 0])
        distances.append(apart.gather(1, nearest)[:, 0])
        tell(len(some))
    index, distance, crowd, placement = zip(*rows, strict=True)
    place = torch.tensor(placement)
    return Neighbours(
        pixel_index=torch.tensor(index),
        pixel_distance=torch.tensor(distance, dtype=torch.float64),
        crowd_distance=torch.tensor(crowd, dtype=torch.float64),
        shift=torch.tensor(SHIFTS)[place % len(SHIFTS)],
        mirrored=place >= len(SHIFTS),
        feature_index=torch.cat(indices),
        feature_distance=torch.cat(distances),
    )


def aligned_distances(image: Tensor, others: Tensor, mirrored: bool = False) -> tuple[Tensor, Tensor]:
    """Root mean squared difference of an image and others, each moved to where it fits best, less noise.

    What lies inside the margins of each other image is compared with every part of the image of that size, so that
    all placements compare as many pixels, none of which a move of the whole image has pushed over an edge.

    Compared are means over 2 x 2 pixels, which halve independent noise. What is left of it is estimated by the diagonal
    details of the same pixels, (a - b - c + d) / 4, which noise fills as much as the means and images hardly (Donoho
    and Johnstone, 1994, take the noise of a signal from its finest wavelet coefficients), and subtracted, up to half of
    the square. Two equal images are at 0; an image and one brighter by c levels everywhere are at c.

    Args:
        image: uint8 (3, w, w).
        others: uint8 (K, 3, w, w).
        mirrored: whether to try the others mirrored too.

    Returns:
        Distances (K,) float64, in levels of 255; and placements (K,) int64: the number of one of `SHIFTS`, or, of a
        mirrored image, that plus their count. Of placements that fit equally it is the first.
    """
    side = image.shape[-1]
    whole = torch.stack((image, image.flip(-1))[: 1 + mirrored])  # (V, 3, w, w), V 1 or 2
    inner = others[..., SHIFT : side - SHIFT, SHIFT : side - SHIFT]  # (K, 3, w - 2s, w - 2s)
    sums, details = (_windows(part) for part in _haar(whole))  # (P, E) each, E = 3 (w - 2s - 1)^2
    other_sums, other_details = (part.flatten(1) for part in _haar(inner))  # (K, E) each
    # Whole numbers below 2^53: nothing is rounded, so equal images are at exactly 0.
    a, b = sums.double(), other_sums.double()
    squares = torch.addmm(b.square().sum(1), a, b.T, alpha=-2) + a.square().sum(1, keepdim=True)  # (P, K)
    least, placement = squares.min(0)  # (K,) each
    noise = (details[placement] - other_details).double().square().sum(1)  # (K,)
    square = torch.maximum(least - noise, (1 - NOISE_SHARE) * least) / (16 * a.shape[1])
    return square.sqrt(), placement


def shrink(pixels: Tensor) -> Tensor:
    """The copies that are compared: uint8 (B, 3, S, S) to (B, 3, w, w), area-averaged where S > 32."""
    if pixels.shape[-1] <= COPY_SIZE:
        return pixels
    return F.adaptive_avg_pool2d(pixels.float(), COPY_SIZE).round_().to(torch.uint8)


def _nearest(training: Training, copy: Tensor, candidates: Tensor, mirrored: bool) -> tuple[int, float, float, int]:
    """Of `candidates` (K,) the nearest: its index, its distance, the mean of the next 20, and its placement."""
    distances, placements = aligned_distances(copy, training.copies[candidates], mirrored)
    ordered, order = distances.sort(stable=True)
    first = int(order[0])
    return int(candidates[first]), float(ordered[0]), float(ordered[1 : 1 + CROWD].mean()), int(placements[first])


def _search_pixels(training: Training, copies: Tensor, mirrored: bool) -> Tensor:
    """Training images whose cells are nearest to those of copies (B, 3, w, w) at their best shift: (B, K) int64."""
    grey = to_grey(copies)[:, :1]  # (B, 1, w, w)
    side = grey.shape[-1] - 2 * SHIFT
    views = (grey, grey.flip(-1))[: 1 + mirrored]
    parts = [view.unfold(2, side, 1).unfold(3, side, 1).flatten(1, 3) for view in views]  # (B, 25, w - 2s, w - 2s)
    cells = _cells(torch.cat(parts, 1))  # (B, P, C)
    # |a - c|^2 = (a, |a|^2) . (-2 c, 1) + |c|^2, whose last term does not depend on the placement.
    cells = torch.cat((cells, cells.square().sum(2, keepdim=True)), 2)  # (B, P, C + 1)
    found = []
    for rows in cells.split(_ROWS):
        squares = torch.empty(len(rows), training.cells.shape[1])  # (B, N)
        for part, block in zip(squares.split(_COLUMNS, 1), training.cells.split(_COLUMNS, 1), strict=True):
            torch.amin((rows.flatten(0, 1) @ block).unflatten(0, rows.shape[:2]), 1, out=part)
        squares += training.cell_squares
        found.append(squares.topk(min(BY_PIXELS, squares.shape[1]), 1, largest=False).indices)
    return torch.cat(found)


def _search_features(training: Training, features: Tensor) -> tuple[Tensor, Tensor]:
    """Training images nearest to features (B, D): indices (B, K) in rising order, and distances (B, K) float64."""
    if features.shape[1] != training.features.shape[1]:
        raise UsageError(
            f"Expected features of the training images' width, {training.features.shape[1]}, got {features.shape[1]}; "
            "features of two networks do not compare."
        )
    found, apart = [], []
    for rows in features.split(2 * _ROWS):
        # |b - mean|^2 - 2 (a - mean) . b is |a - b|^2 but for a term of a alone. Centred it loses few digits; the
        # distances that are told are computed anew.
        squares = torch.addmm(training.feature_squares, rows - training.mean, training.features.T, alpha=-2)  # (B, N)
        nearest = squares.topk(min(BY_FEATURES, squares.shape[1]), 1, largest=False).indices.sort(1).values  # (B, K)
        found.append(nearest)
        apart.append((rows.double()[:, None] - training.features[nearest].double()).norm(dim=2))
    return torch.cat(found), torch.cat(apart)


def _check_features(features: Tensor, count: int) -> Tensor:
    """Features (B, D) as float32 on the CPU."""
    if features.ndim != 2 or len(features) != count or not features.isfinite().all():
        told = "" if features.isfinite().all() else ", not all of them finite"
        raise UsageError(f"Expected finite features ({count}, D), one row an image, got {tuple(features.shape)}{told}.")
    return features.detach().to("cpu", torch.float32)


def _cells(grey: Tensor) -> Tensor:
    """Means of 7 x 7 parts of uint8 (..., h, h), rounded, less 128: (..., C) float32, whole numbers."""
    return F.adaptive_avg_pool2d(grey.float(), CELLS).round_().sub_(128).flatten(-2)


def _haar(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and diagonal details of all 2 x 2 neighbours of uint8 (..., h, h): int16 (..., h - 1, h - 1) each.

    The Haar wavelets of finest scale in two dimensions, so scaled that they are whole numbers.
    """
    whole = pixels.short()
    below, above = whole[..., 1:, :], whole[..., :-1, :]
    both, fall = above + below, above - below
    return both[..., :-1] + both[..., 1:], fall[..., :-1] - fall[..., 1:]


def _windows(maps: Tensor) -> Tensor:
    """Every part of (V, 3, h, h) that is smaller by 2 s, in the order of `SHIFTS`: (V 25, 3 (h - 2s)^2)."""
    side = maps.shape[-1] - 2 * SHIFT
    down, right = (torch.tensor(SHIFTS) + SHIFT).unbind(1)
    parts = maps.unfold(2, side, 1).unfold(3, side, 1)[:, :, down, right]  # (V, 3, 25, h - 2s, h - 2s)
    return parts.transpose(1, 2).flatten(0, 1).flatten(1)

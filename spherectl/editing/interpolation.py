"""Between latents: along a great circle or a straight line, from two ends or four corners (section 6).

Letters: F frames, N tokens, d token channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spherectl.checks import check_whole
from spherectl.model.geometry import slerp, spherify

MAX_FRAMES = 10_000  # of one path: five minutes of film


def path(a: Tensor, b: Tensor, frames: int, *, spherical: bool = True) -> Tensor:
    """Points from one latent to another, ends included.

    Args:
        a, b: (N, d) points on the sphere.
        frames: F, at least 2.
        spherical: along the great circle of the whole latent; else along the chord, put back on the sphere.

    Returns:
        (F, N, d) of RMS 1; the first is a and the last b, bit for bit.

    Raises:
        UsageError: fewer than two frames, or more than `MAX_FRAMES`.
    """
    frames = check_whole(frames, "frames", 2, MAX_FRAMES)
    t = torch.linspace(0, 1, frames, dtype=a.dtype, device=a.device)
    return torch.stack([_between(a, b, float(one), spherical) for one in t])


def square(corners: Tensor, rows: int, columns: int, *, spherical: bool = True) -> Tensor:
    """Points between four corners: along both sides first, then across.

    Args:
        corners: (4, N, d): upper left, upper right, lower left, lower right.
        rows, columns: at least 2 each.
        spherical: as for `path`.

    Returns:
        (rows, columns, N, d).
    """
    left = path(corners[0], corners[2], rows, spherical=spherical)
    right = path(corners[1], corners[3], rows, spherical=spherical)
    return torch.stack([path(a, b, columns, spherical=spherical) for a, b in zip(left, right, strict=True)])


def between(
    ends: Tensor, labels: Sequence[int] | None, frames: int, num_classes: int, *, spherical: bool = True
) -> tuple[Tensor, Tensor | None]:
    """All points between two ends or four corners, and the classes to decode them under.

    Args:
        ends: (2, N, d) or (4, N, d).
        labels: a class for each end; None for an unconditional model.
        frames: F, of the path or along each side.
        num_classes: K.
        spherical: as for `path`.

    Returns:
        (F, N, d) or (F F, N, d), row by row; and labels where all ends have the same class, else mixtures.
    """
    if len(ends) == 2:
        points = path(ends[0], ends[1], frames, spherical=spherical)
    else:
        points = square(ends, frames, frames, spherical=spherical).flatten(0, 1)
    if labels is None:
        return points, None
    if len(set(labels)) == 1:
        return points, torch.tensor(labels[:1]).expand(len(points))
    shares = line_shares(frames) if len(ends) == 2 else square_shares(frames, frames)
    return points, class_weights(labels, shares, num_classes)


def class_weights(labels: Sequence[int], shares: Tensor, num_classes: int) -> Tensor:
    """Mixtures of classes, which the networks take in place of labels.

    Their embeddings are mixed linearly, in the encoder's table and in the decoder's.

    Args:
        labels: m classes, the null class being `num_classes`.
        shares: (F, m), each row with the sum 1.
        num_classes: K.

    Returns:
        (F, K + 1) float32.
    """
    weights = torch.zeros(len(shares), num_classes + 1)
    for place, label in enumerate(labels):
        weights[:, label] += shares[:, place]
    return weights


def line_shares(frames: int) -> Tensor:
    """Shares of two ends along a path, (F, 2): from all of the first to all of the second."""
    t = torch.linspace(0, 1, frames)
    return torch.stack((1 - t, t), dim=1)


def square_shares(rows: int, columns: int) -> Tensor:
    """Shares of four corners in a square, (rows columns, 4), row by row: bilinear."""
    down, across = torch.linspace(0, 1, rows)[:, None], torch.linspace(0, 1, columns)[None]
    four = ((1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across)
    return torch.stack(four, dim=-1).reshape(-1, 4)


def _between(a: Tensor, b: Tensor, t: float, spherical: bool) -> Tensor:
    if t in (0.0, 1.0):
        return b if t else a
    return slerp(a[None], b[None], t)[0] if spherical else spherify(torch.lerp(a, b, t)[None])[0]

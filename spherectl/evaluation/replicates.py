"""The scores of resamples, without computing any score anew: Frechet distances, KID, Inception Scores.

All that does not depend on the resample is done once; `spherectl.evaluation.bootstrap` has the rest.

Letters: n images, R resamples, D width of the features, K classes, r images of the reference, q rank of its covariance.
m (R, n) are multiplicities: integers, each row summing to n.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spherectl.errors import UsageError
from spherectl.evaluation.bootstrap import check_multiplicities
from spherectl.progress import Progress

# Rows worked on at once: a tile of kernel values takes 8 MB, which caches hold; twice this was a third slower.
BLOCK = 1024


# |mean - mean_ref|^2 + tr S + tr S_ref - 2 tr (B^T S B)^1/2 with B B^T = S_ref: torch-fidelity's, written so
# that all work on the reference and on each image is done once. B^T S B is the covariance of the images times B.
def frechet_replicates(
    features: Tensor, mean: Tensor, covariance: Tensor, m: Tensor, progress: Progress | None = None
) -> Tensor:
    """Squared Frechet distance of each resample to the reference, in float64.

    The covariance of a resample is over n - 1, as NumPy's is.

    Args:
        features: (n, D) of the samples.
        mean, covariance: (D,) and (D, D) of the reference.
        m: multiplicities (R, n).
        progress: called with resamples done and resamples in all.

    Returns:
        (R,) float64, at least 0.

    Raises:
        UsageError: there are fewer than two images, or `m` is of another number of them.
    """
    check_multiplicities(features, m, min_count=2)
    n, x = len(features), features.detach().cpu()
    reference = covariance.detach().cpu().double()
    factor = _factor(reference)  # (D, q)
    sample_mean = torch.stack([x[rows].double().sum(0) for rows in _blocks(n)]).sum(0) / n  # (D,)
    projected = torch.empty(n, factor.shape[1], dtype=torch.float64)
    squares = torch.empty(n, dtype=torch.float64)
    means = torch.zeros(len(m), len(sample_mean), dtype=torch.float64)  # of the resamples, less the sample mean
    for rows in _blocks(n):
        centred = x[rows].double() - sample_mean  # (b, D)
        projected[rows] = centred @ factor  # (b, q)
        squares[rows] = centred.square().sum(1)
        means += m[:, rows].double() @ centred / n
    traces = (m.double() @ squares - n * means.square().sum(1)) / (n - 1)  # (R,)
    shifts = (sample_mean + means - mean.detach().cpu().double()).square().sum(1)  # (R,)
    projected_means = (means @ factor).numpy()  # (R, q)
    crosses = torch.empty(len(m), dtype=torch.float64)
    for index, row in enumerate(m.numpy()):
        crosses[index] = _root_trace(projected.numpy(), projected_means[index], row)
        if progress is not None:
            progress(index + 1, len(m))
    return (shifts + traces + reference.trace() - 2 * crosses).clamp(min=0)


# Binkowski et al., 2018, equation 4, over all images instead of subsets
def kid_replicates(
    features: Tensor,
    reference_features: Tensor,
    m: Tensor,
    *,
    within_reference: float | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Unbiased squared MMD of each resample to the reference, by the kernel of KID, in float64.

    Pairs of an image with itself are left out, those of its repeats too: with them a resample would look less spread
    than the samples. A row of ones is the plain statistic, which the mean over subsets that KID reports estimates.

    Args:
        features: (n, D) of the samples.
        reference_features: (r, D).
        m: multiplicities (R, n).
        within_reference: `mean_kernel(reference_features)`, where several models share it.
        progress: called with tiles of kernel values done and tiles in all, those of `mean_kernel` not among them.

    Returns:
        (R,) float64, which may lie below 0.

    Raises:
        UsageError: there are fewer than two images on a side, a resample holds one image alone, or `m` is of another
            number of images.
    """
    check_multiplicities(features, m, min_count=2)
    n, r = len(features), len(reference_features)
    pairs = n**2 - m.double().square().sum(1)  # (R,)
    if not pairs.all():
        raise UsageError(f"A resample of {n} images holds one of them alone and has no pairs; KID needs more images.")
    if within_reference is None:
        within_reference = mean_kernel(reference_features)
    x, y = features.detach().cpu(), reference_features.detach().cpu()
    weights = m.T.double()  # (n, R)
    blocks, reference_blocks = list(_blocks(n)), list(_blocks(r))
    done, total = 0, len(blocks) * (len(blocks) + 1) // 2 + len(blocks) * len(reference_blocks)

    def tell() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    within = torch.zeros(len(m), dtype=torch.float64)  # sums over ordered pairs of different images
    between = torch.zeros(n, dtype=torch.float64)  # of each image with the reference
    for place, rows in enumerate(blocks):
        for columns in blocks[place:]:
            tile = _kernel(x[rows], x[columns])  # (b, b')
            if rows == columns:
                tile.fill_diagonal_(0)
            times = 1 if rows == columns else 2  # the tile across the diagonal is the same
            within += times * ((tile @ weights[columns]) * weights[rows]).sum(0)
            tell()
        for columns in reference_blocks:
            between[rows] += _kernel(x[rows], y[columns]).sum(1)
            tell()
    return within / pairs - 2 * (m.double() @ between) / (n * r) + within_reference


def mean_kernel(features: Tensor, progress: Progress | None = None) -> float:
    """Mean of KID's kernel over pairs of different images, in float64.

    Args:
        features: (n, D).
        progress: called with tiles of kernel values done and tiles in all.

    Raises:
        UsageError: there are fewer than two images.
    """
    n = len(features)
    if n < 2:
        raise UsageError(f"KID needs at least 2 images on each side; there were {n}.")
    x = features.detach().cpu()
    tiles = [(rows, columns) for rows in _blocks(n) for columns in _blocks(n) if rows.start <= columns.start]
    total = 0.0
    for done, (rows, columns) in enumerate(tiles, start=1):
        tile = _kernel(x[rows], x[columns])
        total += float(tile.sum() - tile.trace()) if rows == columns else 2 * float(tile.sum())
        if progress is not None:
            progress(done, len(tiles))
    return total / (n * (n - 1))


# exp mean_i KL(p_i || q), q the mean of the p_i (Salimans et al., 2016); mean_i KL = mean_i sum p log p - sum q log q
def inception_score_replicates(logits: Tensor, m: Tensor) -> Tensor:
    """Inception Score of each resample taken whole, without splits.

    Args:
        logits: (n, K).
        m: multiplicities (R, n).

    Returns:
        (R,) float64, from 1 to K.

    Raises:
        UsageError: `m` is of another number of images.
    """
    check_multiplicities(logits, m)
    n, x = len(logits), logits.detach().cpu()
    marginals = torch.zeros(len(m), logits.shape[1], dtype=torch.float64)
    information = torch.zeros(len(m), dtype=torch.float64)
    for rows in _blocks(n):
        log_p = x[rows].double().log_softmax(1)  # (b, K)
        p = log_p.exp()
        weights = m[:, rows].double() / n  # (R, b)
        marginals += weights @ p
        information += weights @ (p * log_p).sum(1)
    return (information - torch.xlogy(marginals, marginals).sum(1)).exp()


def _factor(covariance: Tensor) -> Tensor:
    """B (D, q) with B B^T the covariance (D, D), which is float64; directions of no variance but rounding are left out.

    The trace needs no symmetric root, and q is the lower rank where the reference has few images.
    """
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    kept = values > values.abs().max() * len(values) * torch.finfo(torch.float64).eps
    factor: Tensor = vectors[:, kept] * values[kept].sqrt()
    return factor


def _root_trace(projected: NDArray[np.float64], mean: NDArray[np.float64], row: NDArray[np.int32]) -> float:
    """tr (B^T S B)^1/2 of one resample: the sum of the singular values of its centred projections over (n - 1)^1/2.

    They are the roots of the eigenvalues of the Gram matrix of rows or of columns, whichever is smaller.

    Args:
        projected: x B of each image (n, q).
        mean: of the resample (q,).
        row: multiplicities (n,).
    """
    held = np.flatnonzero(row)
    width = projected.shape[1]

    def weighted(some: NDArray[np.intp]) -> NDArray[np.float64]:
        rows: NDArray[np.float64] = (projected[some] - mean) * np.sqrt(row[some, None])  # (b, q)
        return rows

    # NumPy, because it sees that both factors are one matrix and does half the work.
    if len(held) < width:
        rows = weighted(held)
        gram = rows @ rows.T
    else:
        gram = np.zeros((width, width))
        for start in range(0, len(held), BLOCK):
            rows = weighted(held[start : start + BLOCK])
            gram += rows.T @ rows
    eigenvalues = np.linalg.eigvalsh(gram)
    return float(np.sqrt(eigenvalues.clip(min=0)).sum() / np.sqrt(len(row) - 1))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """KID's kernel (x . y / D + 1)^3 of all pairs of (b, D) and (b', D): float64 (b, b')."""
    products = x.double() @ y.double().T
    return products.div_(x.shape[1]).add_(1).pow_(3)


def _blocks(count: int) -> Iterator[slice]:
    """Slices of at most `BLOCK` that cover `count`."""
    return (slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))

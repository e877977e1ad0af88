"""Four measures of how unevenly points lie on a sphere, none of which changes when the points are rotated.

Sources: Mardia and Jupp, Directional Statistics (2000), 10.4.1 for Rayleigh's test and 9.3.1 for the law of an angle;
Szekely and Rizzo, Energy statistics (J. Stat. Plan. Inference, 2013); Roy and Vetterli, The effective rank (EUSIPCO
2007). `spherectl.evaluation.uniformity` says what each sees and is blind to.

Letters: n points, L dimension of the space around the sphere (latent length), P = n (n - 1) / 2 pairs.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spherectl.model.geometry import effective_rank

_ANGLE_CELLS = 8192  # of the table of the law of an angle; linear between its edges, off by 1e-6 at most


class Statistics(NamedTuple):
    """The four measures of one set of points.

    Attributes:
        mean_direction: Rayleigh: length of the mean of the unit vectors, times sqrt(n), so that its root mean square
            is exactly 1 for uniform points of any n and L; sqrt(n) where all are one point.
        pairwise_angles: Kolmogorov-Smirnov distance of the angles of all P pairs to the law of the angle of two uniform
            points, 0 to 1.
        effective_rank: exp of the entropy of the eigenvalues of the second-moment matrix (about the centre of the
            sphere) over L: 1 / L for points on a line, 1 for equal eigenvalues, never above n / L.
        energy_distance: 2 E|x - U| - E|U - U'| - E|x - x'| for points x, x' of the set, drawn with replacement, and
            uniform U, U'; 0 or more.
    """

    mean_direction: float
    pairwise_angles: float
    effective_rank: float
    energy_distance: float


# Fields of `Statistics`, and what tables call them.
MEASURES = {
    "mean_direction": "mean direction",
    "pairwise_angles": "pairwise angles",
    "effective_rank": "effective rank / L",
    "energy_distance": "energy distance",
}


def measure(unit: Tensor, dimension: int | None = None) -> Statistics:
    """The four measures of unit vectors.

    In float32, whose rounding of a cosine, 1e-7, is far below what any measure varies by; sums and eigenvalues in
    float64.

    Args:
        unit: (n, L) float32, rows of length 1; or (n, l) where the points lie in a subspace known to hold them.
        dimension: L, where it is not the width of `unit`.
    """
    count, width = unit.shape
    dimension = dimension or width
    gram = unit @ unit.T  # (n, n)
    rows, columns = torch.triu_indices(count, count, offset=1)
    cosines = gram[rows, columns].clamp(-1, 1)  # (P,)
    distances = (2 - 2 * cosines).sqrt()  # (P,)
    # E|x - U| = E|U - U'| by symmetry; each pair stands for two of the n^2, and a point is 0 from itself
    energy = mean_distance(dimension) - 2 * float(distances.double().sum()) / count**2
    return Statistics(
        mean_direction=float(unit.mean(0, dtype=torch.float64).norm()) * math.sqrt(count),
        pairwise_angles=_kolmogorov_distance(cosines, dimension),
        effective_rank=effective_rank(unit, gram) / dimension,
        energy_distance=max(0.0, energy),
    )


def mean_distance(dimension: int) -> float:
    """E|x - U| over uniform U, the same for every x of the unit sphere: 4 / pi in the plane, 4 / 3 in space.

    |x - U| = 2 sqrt(B), where B = (1 - cos) / 2 has the law Beta(a, a) with a = (L - 1) / 2.
    """
    a = (dimension - 1) / 2
    return 2 * math.exp(math.lgamma(a + 0.5) + math.lgamma(2 * a) - math.lgamma(a) - math.lgamma(2 * a + 0.5))


def cosine_cdf(cosines: Tensor, dimension: int) -> Tensor:
    """Probability that the cosine of two uniform points is below each of `cosines`: float32, any shape, to 1e-6.

    That is I_b(a, a), the regularised incomplete beta function, of b = (1 + cos) / 2 and a = (L - 1) / 2. Here it is
    read from a table in the arcsine of the cosine, whose density is smooth for every L.
    """
    reach, table = _angle_table(dimension)
    place = ((cosines.asin() + reach) * (_ANGLE_CELLS / (2 * reach))).clamp(0, _ANGLE_CELLS)
    cell = place.int().clamp(max=_ANGLE_CELLS - 1)
    low, high = (table.index_select(0, (cell + one).flatten()).reshape(cell.shape) for one in (0, 1))
    probabilities: Tensor = low + (place - cell) * (high - low)
    return probabilities


def draw_uniform(generator: np.random.Generator, count: int, dimension: int) -> Tensor:
    """Uniform points: unit vectors (n, min(n, L)) float32.

    n < L normal vectors can be turned into the space of the first n axes, where their matrix is triangular (Bartlett,
    1933): normals below the diagonal and on it the square roots of chi-squares of L, L - 1, ... degrees of freedom.
    So drawn, their lengths and angles have the law they have in L dimensions, at a cost that does not grow with L.
    """
    normals = generator.standard_normal((count, min(count, dimension)), dtype=np.float32)
    if dimension > count:
        normals = np.tril(normals)
        np.fill_diagonal(normals, np.sqrt(generator.chisquare(dimension - np.arange(count))))
    return normalise(torch.from_numpy(normals))


def normalise(points: Tensor) -> Tensor:
    """Points (n, L), none of them 0, divided by their lengths."""
    unit: Tensor = points / points.norm(dim=1, keepdim=True)  # (n, L)
    return unit


def _kolmogorov_distance(cosines: Tensor, dimension: int) -> float:
    """Largest difference, up or down, of the distribution of `cosines` (P,) and the exact one."""
    ordered = torch.from_numpy(np.sort(cosines.numpy()))  # three times as fast as torch's sort
    exact = cosine_cdf(ordered, dimension).double()  # (P,)
    steps = torch.arange(len(exact) + 1, dtype=torch.float64) / len(exact)  # the empirical one, before and after each
    return float(torch.maximum(exact - steps[:-1], steps[1:] - exact).max())


@functools.lru_cache(maxsize=8)
def _angle_table(dimension: int) -> tuple[float, Tensor]:
    """Law of phi = asin(cos angle), of density proportional to cos(phi)^(L - 2) (Mardia and Jupp, 9.3.1).

    Returns:
        The reach: the table runs from -reach to reach, 12 standard deviations or all there is; and the
        probabilities below the edges of its cells, (_ANGLE_CELLS + 1,) float32.
    """
    reach = min(math.pi / 2, 12 / math.sqrt(max(dimension - 2, 1)))
    phi = torch.linspace(-reach, reach, 2 * _ANGLE_CELLS + 1, dtype=torch.float64)  # edges and middles of the cells
    density = ((dimension - 2) * phi.cos().clamp(min=1e-300).log()).exp()
    cells = density[:-2:2] + 4 * density[1::2] + density[2::2]  # Simpson's rule
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), cells.cumsum(0)])
    return reach, (edges / edges[-1]).float()

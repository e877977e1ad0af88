"""Whether points on a sphere are spread evenly over it, as numbers: what the paper shows of its latents in a figure.

Four measures, none of which changes when the points are rotated:

| measure         | what it sees                                 | what it is blind to                                 |
|-----------------|----------------------------------------------|-----------------------------------------------------|
| mean direction  | a pull to one side, clusters that do not     | whatever balances about the centre: two opposite    |
|                 | balance                                      | clusters, a great subsphere                         |
| pairwise angles | any departure, given enough points; clusters | nothing in the limit, but a weak pull moves it less |
|                 | and lost dimensions above all                | than the mean direction                             |
| effective rank  | directions used too much or not at all: a    | signs (a point may change places with its           |
|                 | great subsphere, the axis of two opposite    | opposite), a weak pull, clusters on every axis      |
|                 | clusters                                     | alike                                               |
| energy distance | any departure, given enough points; what the | nothing in the limit, but where L is large it is    |
|                 | mean direction sees above all                | hardly moved by what leaves the mean alone          |

Pairwise angles miss nothing in the limit, because their distribution determines the energy distance, which is 0 for the
uniform distribution alone. Expectations and p-values come from truly uniform points, as many and of the same dimension.

Sources stand in `spherectl.evaluation.directions`, which computes them.

Letters: n points, L dimension of the space around the sphere (latent length), P = n (n - 1) / 2 pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spherectl.errors import UsageError
from spherectl.evaluation.directions import MEASURES, Statistics, draw_uniform, mean_distance, measure, normalise
from spherectl.model import seeding
from spherectl.progress import Progress, part_of

DRAWS = 499  # so that p-values are multiples of 0.002
MAX_POINTS = 1000  # points in all; a draw costs n^3 where L > n, and up to 0.2 s of one core here
MAX_OF_CLASS = 200


@dataclass(frozen=True)
class Measure:
    """One measure beside what uniform points give.

    Attributes:
        value: as in `Statistics`.
        expected: under uniformity. Exact for the mean direction (root mean square) and the energy distance; the mean of
            the draws for the others.
        spread: standard deviation of the draws. A departure that no draw comes near shows its size here, not in
            p_value.
        p_value: (1 + draws at least as extreme) / (1 + draws). Extreme is high, but for the effective rank low: points
            more even than chance are not the defect looked for.
    """

    value: float
    expected: float
    spread: float
    p_value: float


@dataclass(frozen=True)
class Uniformity:
    """All measures of one set of points.

    Attributes:
        count: n, points measured.
        dimension: L.
        draws: sets of uniform points they were compared with.
        mean_direction, pairwise_angles, effective_rank, energy_distance: see `Statistics`.
    """

    count: int
    dimension: int
    draws: int
    mean_direction: Measure
    pairwise_angles: Measure
    effective_rank: Measure
    energy_distance: Measure


def cells(found: Uniformity) -> dict[str, str]:
    """The measures as cells of a table, each beside what uniform points give."""
    measures = {head: getattr(found, name) for name, head in MEASURES.items()}
    return {
        head: f"{one.value:.3g} (uniform {one.expected:.3g}, p {one.p_value:.2g})" for head, one in measures.items()
    }


@dataclass(frozen=True)
class UniformityByClass:
    """Of K classes and four measures, uniform points give 4 K / 100 p-values of 0.01 or less by chance.

    Attributes:
        overall: all points together.
        classes: name and measures of each class, in the order of the classes. Pairs, for ImageNet has names twice.
        left_out: names of the classes of fewer than two points, which have no measure.
    """

    overall: Uniformity
    classes: tuple[tuple[str, Uniformity], ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class NullDistribution:
    """The measures of sets of truly uniform points.

    Attributes:
        count: n, points in each set.
        dimension: L.
        statistics: one entry a draw.
    """

    count: int
    dimension: int
    statistics: tuple[Statistics, ...]


def uniformity(
    points: Tensor,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    max_points: int = MAX_POINTS,
    null: NullDistribution | None = None,
    progress: Progress | None = None,
) -> Uniformity:
    """Measure how evenly points are spread over the sphere.

    Args:
        points: (n, ...) floating point, each flattened to L numbers and divided by its length.
        draws: sets of uniform points to compare with.
        seed: of the draws, and of the choice of points where there are too many.
        max_points: points to measure; of more, that many are chosen at random.
        null: `null_distribution` of the same n and L, which sets `draws`; drawn here without.
        progress: called with draws done and draws in all.

    Raises:
        UsageError: there are fewer than two points or dimensions, a point is zero or not finite, or `null` is of
            another n or L.
    """
    flat = _flatten(points)  # (n, L)
    unit = _directions(flat, _choose(len(flat), max_points, seed))
    count, dimension = unit.shape
    if null is None:
        null = null_distribution(count, dimension, draws, seed, progress)
    if (null.count, null.dimension) != (count, dimension):
        raise UsageError(
            f"The null distribution must be of {count} points in {dimension} dimensions, as the points are; "
            f"it is of {null.count} in {null.dimension}."
        )
    return _compare(measure(unit), null)


def uniformity_by_class(
    points: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    max_points: int = MAX_POINTS,
    max_of_class: int = MAX_OF_CLASS,
    progress: Progress | None = None,
) -> UniformityByClass:
    """Measure how evenly points are spread over the sphere, in all and class by class.

    Sets of one size share their draws.

    Args:
        points: (n, ...), as for `uniformity`.
        labels: (n,) integers from 0, places in `class_names`.
        class_names: one a class.
        draws, seed: as for `uniformity`.
        max_points: points to measure in all.
        max_of_class: points to measure of each class.
        progress: called with draws done and draws in all, over all sizes.

    Raises:
        UsageError: as for `uniformity`, or the labels do not fit the points or the names.
    """
    flat, labels = _flatten(points), labels.cpu()  # (n, L), (n,)
    if labels.shape != (len(flat),) or labels.is_floating_point():
        raise UsageError(
            f"Expected one integer label a point, ({len(flat)},); got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    low, high = (int(bound) for bound in labels.aminmax())
    if low < 0 or high >= len(class_names):
        raise UsageError(
            f"Labels of {len(class_names)} classes are 0 to {len(class_names) - 1}; these reach from {low} to {high}."
        )
    everything = _choose(len(flat), max_points, seed)
    members = [(labels == label).nonzero()[:, 0] for label in range(len(class_names))]
    chosen = [of_class[_choose(len(of_class), max_of_class, seed)] for of_class in members]

    sizes = sorted({len(indices) for indices in (everything, *chosen) if len(indices) > 1})
    nulls = {}
    for place, size in enumerate(sizes):
        tell = part_of(progress, place * draws, len(sizes) * draws)
        nulls[size] = null_distribution(size, flat.shape[1], draws, seed, tell)

    def examine(indices: Tensor) -> Uniformity:
        return _compare(measure(_directions(flat, indices)), nulls[len(indices)])

    pairs = list(zip(class_names, chosen, strict=True))
    return UniformityByClass(
        overall=examine(everything),
        classes=tuple((name, examine(indices)) for name, indices in pairs if len(indices) > 1),
        left_out=tuple(name for name, indices in pairs if len(indices) < 2),
    )


_drawn: dict[tuple[int, int, int, int], NullDistribution] = {}


def null_distribution(
    count: int, dimension: int, draws: int = DRAWS, seed: int = 0, progress: Progress | None = None
) -> NullDistribution:
    """The measures of `draws` sets of `count` uniform points in `dimension` dimensions; kept for the next call.

    Args:
        count, dimension: n and L, at least 2.
        draws: at least 1. Fewer draws are the first of more.
        seed: of the draws.
        progress: called with draws done and draws in all.

    Raises:
        UsageError: an argument is too small.
    """
    if count < 2 or dimension < 2 or draws < 1:
        raise UsageError(
            "Uniformity needs at least 2 points, 2 dimensions and 1 draw; "
            f"there were {count} points, {dimension} dimensions and {draws} draws."
        )
    key = (count, dimension, draws, seed)
    if key not in _drawn:
        generator = np.random.default_rng(seed)
        statistics = []
        for draw in range(draws):
            statistics.append(measure(draw_uniform(generator, count, dimension), dimension))
            if progress is not None:
                progress(draw + 1, draws)
        _drawn[key] = NullDistribution(count, dimension, tuple(statistics))
    elif progress is not None:
        progress(draws, draws)
    return _drawn[key]


def _compare(statistics: Statistics, null: NullDistribution) -> Uniformity:
    draws = torch.tensor(null.statistics, dtype=torch.float64)  # (draws, 4)
    expected = draws.mean(0)
    exact = {"mean_direction": 1.0, "energy_distance": mean_distance(null.dimension) / null.count}
    measures = {}
    for place, (name, value) in enumerate(zip(MEASURES, statistics, strict=True)):
        column = draws[:, place]
        extreme = column <= value if name == "effective_rank" else column >= value
        measures[name] = Measure(
            value=value,
            expected=exact.get(name, float(expected[place])),
            spread=float(column.std(correction=0)),
            p_value=(1 + int(extreme.sum())) / (1 + len(draws)),
        )
    return Uniformity(null.count, null.dimension, len(draws), **measures)


def _choose(count: int, max_points: int, seed: int) -> Tensor:
    """Places of at most `max_points` of `count` points, chosen at random without replacement."""
    if max_points < 2:
        raise UsageError(f"Uniformity needs at least 2 points; it was asked for {max_points}.")
    if count <= max_points:
        return torch.arange(count)
    return seeding.permutation(seed, seeding.ORDER, 0, count)[:max_points]


def _flatten(points: Tensor) -> Tensor:
    """Points (n, ...) as (n, L), once each is known to have a direction."""
    if points.ndim < 2 or not points.is_floating_point():
        raise UsageError(
            f"Points on a sphere are floats of shape (n, L) or (n, ...); got {points.dtype} of {tuple(points.shape)}."
        )
    flat = points.detach().flatten(1)  # (n, L)
    if len(flat) < 2 or flat.shape[1] < 2:
        raise UsageError(
            f"Uniformity needs at least 2 points of at least 2 dimensions; there were {len(flat)} of {flat.shape[1]}."
        )
    lengths = torch.cat([rows.float().norm(dim=1).cpu() for rows in flat.split(1000)])  # (n,)
    wrong = (~(lengths.isfinite() & (lengths > 0))).nonzero()[:, 0]
    if len(wrong):
        first = int(wrong[0])
        raise UsageError(
            f"Every point must be finite and not zero to have a direction; {len(wrong)} of {len(flat)} have none, "
            f"the first is point {first}, of length {float(lengths[first]):.4g}."
        )
    return flat


def _directions(flat: Tensor, indices: Tensor) -> Tensor:
    """The points (n, L) at `indices` (m,) divided by their lengths: (m, L) float32 on the CPU."""
    return normalise(flat[indices.to(flat.device)].to("cpu", torch.float32))

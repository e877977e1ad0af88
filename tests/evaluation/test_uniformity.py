"""Measures of uniformity against closed forms and scipy, their p-values on uniform points, and what each must notice.

Letters: n points, L dimension of the space around the sphere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from spherectl.errors import UsageError
from spherectl.evaluation.directions import MEASURES, Statistics, cosine_cdf, draw_uniform, mean_distance, measure
from spherectl.evaluation.uniformity import NullDistribution, null_distribution, uniformity, uniformity_by_class

pytestmark = pytest.mark.fast

REPETITIONS = 60

# More points than dimensions, and fewer.
SHAPES = [(100, 32), (60, 96)]

# Which measures are meant for which departure, as the module's table says; each must reject at 1% in 57 repetitions
# of 60. The mean direction is blind to the last two, which balance about the centre.
MEANT = {
    "pull": ("mean_direction", "energy_distance"),
    "two clusters at a right angle": ("mean_direction", "energy_distance", "pairwise_angles"),
    "two opposite clusters": ("effective_rank", "pairwise_angles"),
    "great subsphere": ("effective_rank", "pairwise_angles"),
}
BALANCED = ("two opposite clusters", "great subsphere")


def normals(n: int, L: int, seed: int) -> Tensor:
    return torch.randn(n, L, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pull(points: Tensor) -> Tensor:
    """One coordinate of the normals moved by 1 to 1.5 standard deviations: a mean of length 0.2, by chance 0.1."""
    points[:, 0] += 1.0 if len(points) == 100 else 1.5
    return points


def right_angle(points: Tensor) -> Tensor:
    """Every other point pulled along one axis, the rest along another."""
    points[::2, 0] += 2
    points[1::2, 1] += 2
    return points


def opposite(points: Tensor) -> Tensor:
    """Every other point pulled to one pole, the rest to the other."""
    strength = 2.0 if len(points) == 100 else 3.0
    points[::2, 0] += strength
    points[1::2, 0] -= strength
    return points


def subsphere(points: Tensor) -> Tensor:
    """Two thirds of the dimensions."""
    points[:, points.shape[1] * 2 // 3 :] = 0
    return points


DEPARTURES: dict[str, Callable[[Tensor], Tensor]] = {
    "pull": pull,
    "two clusters at a right angle": right_angle,
    "two opposite clusters": opposite,
    "great subsphere": subsphere,
}


def rejections(shape: tuple[int, int], depart: Callable[[Tensor], Tensor]) -> dict[str, int]:
    """How often each measure has a p-value of at most 1%."""
    null = null_distribution(*shape, draws=999, seed=1)
    found = [uniformity(depart(normals(*shape, seed=1000 + k)), null=null) for k in range(REPETITIONS)]
    return {name: sum(getattr(one, name).p_value <= 0.01 for one in found) for name in MEASURES}


@pytest.mark.parametrize("shape", SHAPES)
def test_of_uniform_points_each_measure_rejects_about_one_in_a_hundred(shape: tuple[int, int]) -> None:
    for name, count in rejections(shape, lambda points: points).items():
        assert count <= 4, name


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("departure", MEANT)
def test_the_measures_meant_for_a_departure_reject_it(departure: str, shape: tuple[int, int]) -> None:
    counts = rejections(shape, DEPARTURES[departure])
    for name in MEANT[departure]:
        assert counts[name] >= 57, name
    if departure in BALANCED:
        assert counts["mean_direction"] <= 6


@pytest.mark.parametrize("L", [2, 5, 2048])
def test_mean_distance_is_the_integral_over_angles(L: int) -> None:
    def density(angle: float) -> float:
        return math.exp((L - 2) * math.log(math.sin(angle)))

    limits = (max(1e-9, math.pi / 2 - 15 / math.sqrt(L)), min(math.pi - 1e-9, math.pi / 2 + 15 / math.sqrt(L)))
    total = scipy.integrate.quad(density, *limits, epsabs=0, epsrel=1e-11)[0]
    weighted = scipy.integrate.quad(lambda t: 2 * math.sin(t / 2) * density(t), *limits, epsabs=0, epsrel=1e-11)[0]
    assert mean_distance(L) == pytest.approx(weighted / total, rel=1e-9)


@pytest.mark.parametrize("L", [2, 3, 17, 131_072])
def test_law_of_the_cosine_is_scipys_incomplete_beta_function(L: int) -> None:
    cosines = torch.cat([torch.linspace(-1, 1, 2001), torch.linspace(-8, 8, 2001) / math.sqrt(L)]).clamp(-1, 1)
    exact = scipy.special.betainc((L - 1) / 2, (L - 1) / 2, (1 + cosines.double().numpy()) / 2)
    np.testing.assert_allclose(cosine_cdf(cosines, L).numpy(), exact, atol=1.5e-6)


@pytest.mark.parametrize("shape", [(2, 3), (12, 2), (30, 64)])
def test_distance_of_pairwise_angles_is_scipys_kstest(shape: tuple[int, int]) -> None:
    points = torch.nn.functional.normalize(normals(*shape, seed=0))
    cosines = [float(a @ b) for a, b in itertools.combinations(points, 2)]
    a = (shape[1] - 1) / 2
    expected = scipy.stats.kstest(cosines, lambda c: scipy.special.betainc(a, a, (1 + c) / 2)).statistic
    assert measure(points.float()).pairwise_angles == pytest.approx(expected, abs=3e-6)


def test_energy_distance_of_points_whose_distances_are_known() -> None:
    poles = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    assert measure(poles).energy_distance == pytest.approx(4 / 3 - (0 + 2 + 2 + 0) / 4, rel=1e-6)
    assert measure(poles[:1].repeat(9, 1)).energy_distance == pytest.approx(4 / 3, rel=1e-6)
    # the corners of a regular polygon: mean distance (2 / n) cot(pi / 2n)
    angles = torch.arange(9, dtype=torch.float64) * (2 * math.pi / 9)
    polygon = torch.stack([angles.cos(), angles.sin()], dim=1).float()
    expected = 4 / math.pi - 2 / 9 / math.tan(math.pi / 18)
    assert measure(polygon).energy_distance == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("axes", "L", "expected"),
    [
        ([0, 0, 0], 5, 1 / 5),  # one line
        ([0, 1, 2, 3] * 3, 4, 1),  # every axis alike
        ([0, 1, 2], 12, 3 / 12),
        ([0, 0, 0, 1], 8, math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)) / 8),
    ],
)
def test_effective_rank_of_known_spectra(axes: list[int], L: int, expected: float) -> None:
    assert measure(torch.eye(L)[axes]).effective_rank == pytest.approx(expected, rel=1e-6)


def test_points_drawn_in_fewer_dimensions_have_the_angles_of_all() -> None:
    L, draws = 6, 4000
    generator = np.random.default_rng(0)
    drawn = torch.stack([draw_uniform(generator, 4, L) for _ in range(draws)])  # (draws, 4, 4)
    assert drawn.shape == (draws, 4, 4)
    gram = (drawn @ drawn.mT).double().numpy()
    for i, j in itertools.combinations(range(4), 2):
        law = scipy.stats.beta((L - 1) / 2, (L - 1) / 2, loc=-1, scale=2)
        assert scipy.stats.kstest(gram[:, i, j], law.cdf).pvalue > 1e-3, (i, j)
    # the angles together: the determinant of the Gram matrix, against points drawn in all six dimensions
    direct = torch.nn.functional.normalize(normals(draws * 4, L, seed=0)).reshape(draws, 4, L)
    determinants = torch.linalg.det(direct @ direct.mT).numpy()
    assert scipy.stats.ks_2samp(np.linalg.det(gram), determinants).pvalue > 1e-3


def test_a_p_value_counts_the_draws_at_least_as_extreme() -> None:
    points = torch.eye(3)[[0, 1]]  # two points at a right angle
    value = measure(points)
    draws = [(0.5, 0.1, 0.9, 0.0), (2.0, 0.9, 0.1, 9.0), value, (3.0, 0.95, 0.2, 9.0)]
    null = NullDistribution(2, 3, tuple(Statistics(*one) for one in draws))
    found = uniformity(points, null=null)
    assert (found.count, found.dimension, found.draws) == (2, 3, 4)
    for name, actual in zip(MEASURES, value, strict=True):
        column = np.array([getattr(one, name) for one in null.statistics])
        one = getattr(found, name)
        assert one.value == actual
        assert one.p_value == (1 + 3) / (1 + 4), name  # low for the effective rank, high for the others
        assert one.spread == pytest.approx(column.std())
    assert found.mean_direction.expected == 1
    assert found.energy_distance.expected == pytest.approx((4 / 3) / 2)
    assert found.effective_rank.expected == pytest.approx(np.mean([one.effective_rank for one in null.statistics]))


def test_lengths_axes_and_order_do_not_matter() -> None:
    points = pull(normals(100, 32, seed=3))
    turn = torch.linalg.qr(normals(32, 32, seed=4)).Q
    lengths = normals(100, 1, seed=5).abs() + 0.1
    null = null_distribution(100, 32, draws=99, seed=1)
    one = uniformity(points, null=null)
    for other in (points * lengths, points @ turn, points.flip(0), points.reshape(100, 4, 2, 4)):
        again = uniformity(other, null=null)
        for name in MEASURES:
            assert getattr(again, name).value == pytest.approx(getattr(one, name).value, rel=1e-4), name
            assert getattr(again, name).p_value == getattr(one, name).p_value


def test_the_null_distribution_is_kept_and_fewer_draws_are_the_first_of_more() -> None:
    told: list[tuple[int, int]] = []
    few = null_distribution(7, 5, draws=3, seed=11, progress=lambda done, total, *_: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert null_distribution(7, 5, draws=3, seed=11, progress=lambda done, total, *_: told.append((done, total))) is few
    assert told[3:] == [(3, 3)]
    assert null_distribution(7, 5, draws=5, seed=11).statistics[:3] == few.statistics
    assert null_distribution(7, 5, draws=3, seed=12) != few


def test_by_class_only_the_collapsed_class_is_far_from_uniform() -> None:
    points, labels = normals(121, 16, seed=0), torch.arange(121) % 3
    points[labels == 1] = pull(points[labels == 1] * 0.1)
    labels[-1] = 4
    limits = {"draws": 99, "max_points": 90, "max_of_class": 30}
    found = uniformity_by_class(points, labels, ("crane", "shirt", "crane", "nobody", "one"), **limits)
    assert found.left_out == ("nobody", "one")
    assert (found.overall.count, found.overall.draws) == (90, 99)
    assert [(name, one.count) for name, one in found.classes] == [("crane", 30), ("shirt", 30), ("crane", 30)]
    for name in MEASURES:
        p_values = [getattr(one, name).p_value for _, one in found.classes]
        assert p_values[1] == 0.01 < min(p_values[0], p_values[2]), name
    assert found.overall.mean_direction.p_value == 0.01


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.ones(4), r"floats of shape \(n, L\)"),
        (torch.ones(1, 3), "at least 2 points.*there were 1 of 3"),
        (torch.eye(3)[[0, 1]] - torch.eye(3)[[1, 1]], "1 of 2 have none, the first is point 1, of length 0"),
        (torch.tensor([[1.0, math.nan], [1.0, 0.0]]), "the first is point 0, of length nan"),
    ],
)
def test_points_without_a_direction_are_refused(points: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        uniformity(points, draws=1)


def test_wrong_requests_are_refused() -> None:
    points, labels = normals(6, 4, seed=0), torch.arange(6)
    spoilt = torch.cat([points, torch.zeros(1, 4)])  # refused even where it is not among the points chosen
    for sentence, call in {
        "must be of 6 points in 4 dimensions": lambda: uniformity(points, null=null_distribution(6, 5, draws=1)),
        "the first is point 6,": lambda: uniformity(spoilt, max_points=2, draws=1),
        r"one integer label a point, \(6,\)": lambda: uniformity_by_class(points, labels[:5], ("a",)),
        "2 classes are 0 to 1; these reach from -1 to 4": lambda: uniformity_by_class(points, labels - 1, ("a", "b")),
    }.items():
        with pytest.raises(UsageError, match=sentence):
            call()

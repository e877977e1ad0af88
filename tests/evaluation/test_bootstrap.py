"""Replicates against torch-fidelity on explicit resamples, and intervals against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

from spherectl.errors import UsageError
from spherectl.evaluation import bootstrap
from spherectl.evaluation import replicates as resampled

pytestmark = pytest.mark.fast

WIDTH = 12


@pytest.fixture
def features() -> Tensor:
    """150 samples (150, 12) float32, off the reference in place and shape."""
    return normal(150, seed=1) * torch.linspace(0.5, 1.5, WIDTH) + 0.3


@pytest.fixture
def reference() -> Tensor:
    """(200, 12) float32."""
    return normal(200, seed=2) @ torch.full((WIDTH, WIDTH), 0.1).add(torch.eye(WIDTH)) + 0.1


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, the last of them not whole."""
    monkeypatch.setattr(resampled, "BLOCK", 64)


def normal(count: int, seed: int, width: int = WIDTH) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def explicit(values: Tensor, row: Tensor) -> Tensor:
    """The resample itself, repeats and all."""
    return values.repeat_interleave(row.long(), dim=0)


def statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    return features.double().mean(0), features.double().T.cov()


def frechet_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """By symmetric square roots, exact to 1e-12 where torch-fidelity's eigenvalues of a product are not."""
    roots = []
    for matrix in (covariance, other_covariance):
        values, vectors = torch.linalg.eigh(matrix.double())
        roots.append((vectors * values.clamp(min=0).sqrt()) @ vectors.T)
    shift = (mean.double() - other_mean.double()).square().sum()
    cross = torch.linalg.svdvals(roots[0] @ roots[1]).sum()
    return float(shift + covariance.trace() + other_covariance.trace() - 2 * cross)


def ones(count: int) -> Tensor:
    """The samples as they are, as a resample."""
    return torch.ones(1, count, dtype=torch.int32)


def test_multiplicities_are_seeded_and_give_each_image_equally_often() -> None:
    m = bootstrap.multiplicities(50, 2000, seed=0)
    assert m.dtype == torch.int32
    assert torch.equal(m[:8], bootstrap.multiplicities(50, 8, seed=0))
    assert not torch.equal(m[:8], bootstrap.multiplicities(50, 8, seed=4))
    assert (m.sum(1) == 50).all()
    # An image is in a resample Binomial(50, 1/50) times: mean 1, variance 0.98; the mean of 2000 strays by 0.022.
    torch.testing.assert_close(m.double().mean(0), torch.ones(50).double(), rtol=0, atol=5 * 0.022)
    assert m.double().var(0).mean().item() == pytest.approx(0.98, rel=0.02)


def test_mean_replicates_are_the_means_of_the_resamples() -> None:
    values = normal(40, seed=0, width=1).flatten()
    m = bootstrap.multiplicities(40, 5, seed=0)
    expected = torch.stack([explicit(values, row).double().mean() for row in m])
    torch.testing.assert_close(bootstrap.mean_replicates(values, m), expected, rtol=1e-12, atol=1e-12)
    found = bootstrap.mean_replicates(values > 0, m)
    torch.testing.assert_close(found, torch.stack([explicit(values > 0, row).double().mean() for row in m]))


def test_frechet_replicates_are_torch_fidelitys_on_the_resamples(features: Tensor, reference: Tensor) -> None:
    m = bootstrap.multiplicities(len(features), 6, seed=0)
    mean, covariance = statistics(reference)
    theirs = {"mu": mean.numpy(), "sigma": covariance.numpy()}
    calls: list[tuple[int, int]] = []
    found = resampled.frechet_replicates(features, mean, covariance, m, lambda *call: calls.append(call))
    for row, value in zip(m, found, strict=True):
        again = explicit(features, row).double().numpy()
        ours = {"mu": again.mean(0), "sigma": np.cov(again, rowvar=False)}
        expected = fid_statistics_to_metric(ours, theirs, verbose=False)[KEY_METRIC_FID]
        assert value.item() == pytest.approx(expected, rel=1e-8)
    assert calls == [(done, 6) for done in range(1, 7)]


@pytest.mark.parametrize(("count", "of_reference"), [(9, 200), (150, 7), (9, 7)])
def test_frechet_replicates_of_fewer_images_than_features(count: int, of_reference: int) -> None:
    """Singular covariances, where torch-fidelity takes roots of rounding errors, against singular values."""
    features, reference = normal(count, seed=1) + 0.5, normal(of_reference, seed=2)
    m = bootstrap.multiplicities(count, 6, seed=0)
    mean, covariance = statistics(reference)
    found = resampled.frechet_replicates(features, mean, covariance, m)
    expected = [frechet_distance(*statistics(explicit(features, row)), mean, covariance) for row in m]
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-6, atol=0)


def test_frechet_replicates_keep_their_digits_far_from_the_origin(features: Tensor, reference: Tensor) -> None:
    m = bootstrap.multiplicities(len(features), 3, seed=0)
    near = resampled.frechet_replicates(features, *statistics(reference), m)
    mean, covariance = statistics(reference)
    far = resampled.frechet_replicates(features.double() + 1e5, mean + 1e5, covariance, m)
    torch.testing.assert_close(far, near, rtol=1e-8, atol=0)


def test_kid_replicates_leave_out_pairs_of_an_image_with_its_repeats(features: Tensor, reference: Tensor) -> None:
    m = bootstrap.multiplicities(len(features), 4, seed=0)
    calls: list[tuple[int, int]] = []
    found = resampled.kid_replicates(
        features, reference, m, progress=lambda done, total, *_: calls.append((done, total))
    )
    y = reference.double()
    within_y = (y @ y.T / WIDTH + 1) ** 3
    y_mean = within_y[~torch.eye(len(y), dtype=torch.bool)].mean()
    for row, value in zip(m, found, strict=True):
        x = explicit(features, row).double()
        place = explicit(torch.arange(len(features)), row)
        different = place[:, None] != place
        within, between = (x @ x.T / WIDTH + 1) ** 3, (x @ y.T / WIDTH + 1) ** 3
        assert value.item() == pytest.approx((within[different].mean() + y_mean - 2 * between.mean()).item(), rel=1e-9)
    assert [done for done, _ in calls] == list(range(1, calls[-1][1] + 1))
    assert {total for _, total in calls} == {len(calls)}


def test_inception_score_replicates_are_torch_fidelitys_without_splits() -> None:
    logits = 3 * normal(150, seed=4)
    m = bootstrap.multiplicities(150, 4, seed=0)
    found = resampled.inception_score_replicates(logits, m)
    for row, value in zip(m, found, strict=True):
        theirs = isc_features_to_metric(explicit(logits, row), splits=1, shuffle=False)[KEY_METRIC_ISC_MEAN]
        assert value.item() == pytest.approx(theirs, rel=1e-12)


def test_interval_is_the_percentiles_of_the_deviations_around_the_score() -> None:
    replicates = torch.arange(101).double() + 1000  # mean 1050, percentiles at -47.5 and 47.5 of it
    assert bootstrap.interval(7.0, replicates) == pytest.approx((7 - 47.5, 7 + 47.5))
    assert bootstrap.interval(7.0, replicates, level=0.5) == pytest.approx((7 - 25, 7 + 25))
    skewed = torch.tensor([0.0, 0.0, 0.0, 4.0])
    low, high = bootstrap.interval(0.0, skewed, level=0.999)
    assert low == pytest.approx(-1.0)  # the long side of the deviations is the long side of the interval
    assert high == pytest.approx(3.0, abs=0.01)


def test_the_interval_of_a_frechet_distance_covers_its_expectation() -> None:
    """50 sets of 200 images in 12 dimensions; percentiles of the replicates as they are cover it far too seldom."""
    mean, covariance = torch.zeros(WIDTH).double(), torch.eye(WIDTH).double()
    sets = [1.3 * normal(200, seed).double() + 0.2 for seed in range(1000, 1200)]
    scores = torch.tensor([frechet_distance(*statistics(some), mean, covariance) for some in sets]).double()
    expected = scores.mean()  # of 200 images: its bias is part of it
    centred = plain = 0
    widths = torch.zeros(50, dtype=torch.float64)
    for seed in range(50):
        m = bootstrap.multiplicities(200, 100, seed)
        replicates = resampled.frechet_replicates(sets[seed], mean, covariance, m)
        low, high = bootstrap.interval(scores[seed].item(), replicates)
        widths[seed] = high - low
        centred += low <= expected <= high
        plain += bool(replicates.quantile(0.025) <= expected <= replicates.quantile(0.975))
    assert centred >= 43  # 95% less 3 binomial deviations
    assert plain < 40
    # Nor is it wide for nothing: 1.96 deviations of the score to a side, and a little for so few images.
    assert 0.9 <= widths.mean() / (2 * 1.96 * scores.std()) <= 1.3


def test_what_cannot_be_resampled_is_one_sentence(features: Tensor, reference: Tensor) -> None:
    m = bootstrap.multiplicities(10, 3, seed=0)
    pairs = torch.tensor([[1, 1], [0, 2]])
    for sentence, call in {
        "at least 2 resamples; there were 0 and 5": lambda: bootstrap.multiplicities(0, 5, seed=0),
        "of 10 images and the scores of 150": lambda: resampled.inception_score_replicates(features, m),
        "on each side; there were 1": lambda: resampled.kid_replicates(features[:10], reference[:1], m),
        "holds one of them alone": lambda: resampled.kid_replicates(features[:2], reference, pairs),
        "between 0 and 1; it was 95": lambda: bootstrap.interval(0.0, torch.zeros(5), level=95),
    }.items():
        with pytest.raises(UsageError, match=sentence):
            call()

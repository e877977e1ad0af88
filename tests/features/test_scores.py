"""Scores against closed forms and scipy, and the refusal to score a model with its own loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from spherectl.data.datasets import MemoryPictures
from spherectl.errors import UsageError
from spherectl.features import scores, store
from spherectl.features.networks import build_network
from spherectl.recipe import Recipe, loads

pytestmark = pytest.mark.fast

ARGUMENTS = {"num_classes": 3, "widths": [4, 5, 6], "blocks": [1, 1, 1]}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with two different small networks, ./loss-net and ./other-net."""
    for seed, name in enumerate(("loss-net", "other-net")):
        torch.manual_seed(seed)
        network = build_network("residual", ARGUMENTS)
        about = {"image_size": 32, "class_names": ["a", "b", "c"]}
        store.save_feature_network(tmp_path / name, network, "residual", ARGUMENTS, about)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def recipe() -> Recipe:
    return loads('name = "r"\n[loss]\nperceptual = "features:loss-net"\n[run]\nlength_epochs = 1\n')


def random_set(count: int, seed: int) -> MemoryPictures:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return MemoryPictures(
        name="random",
        root=Path(),
        class_names=("a", "b", "c"),
        labels=torch.arange(count) % 3,
        licence="none",
        image_size=32,
        pixels=images,
    )


def covariance(width: int, rank: int, generator: torch.Generator) -> Tensor:
    factor = torch.randn(width, rank, generator=generator, dtype=torch.float64)
    return factor @ factor.T / rank


def test_frechet_distance_of_diagonal_gaussians_is_the_closed_form() -> None:
    mean_a, mean_b = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 1.0, 0.5])
    std_a, std_b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 2.0, 0.0])
    distance = scores.frechet_distance(mean_a, std_a.square().diag(), mean_b, std_b.square().diag())
    # |m - m'|^2 + sum (s - s')^2 = (1 + 9 + 0) + (0.25 + 0 + 9)
    assert distance == pytest.approx(19.25, rel=1e-12)


@pytest.mark.parametrize("rank", [40, 7])
def test_frechet_distance_agrees_with_scipys_sqrtm(rank: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    a, b = covariance(24, 40, generator), covariance(24, rank, generator)  # rank 7: singular
    mean = torch.randn(24, generator=generator, dtype=torch.float64)
    root = np.real(scipy.linalg.sqrtm((a @ b).numpy()))
    expected = float(mean.square().sum() + a.trace() + b.trace()) - 2 * float(np.trace(root))
    assert scores.frechet_distance(mean, a, torch.zeros(24), b) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_a_singular_gaussian_to_itself_is_zero() -> None:
    a = covariance(24, 7, torch.Generator().manual_seed(0))
    assert scores.frechet_distance(torch.ones(24), a, torch.ones(24), a) == pytest.approx(0.0, abs=1e-10)


def test_streamed_statistics_are_numpys_even_with_a_large_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(101, 5, generator=generator, dtype=torch.float64) + 1e6
    statistics = scores.FeatureStatistics(5)
    for batch in features.split(17):
        statistics.add(batch)
    statistics.add(features[:0])
    assert statistics.count == 101
    np.testing.assert_allclose(statistics.mean.numpy(), features.numpy().mean(0), rtol=1e-14)
    np.testing.assert_allclose(statistics.covariance.numpy(), np.cov(features.numpy().T), rtol=1e-7)


def test_one_image_has_no_covariance() -> None:
    statistics = scores.FeatureStatistics(2)
    statistics.add(torch.ones(1, 2))
    with pytest.raises(UsageError, match="at least 2 images"):
        _ = statistics.covariance


def test_accuracy_counts_rows_whose_largest_logit_is_the_label() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert scores.accuracy(logits, torch.tensor([1, 0, 2, 1])) == 0.75


def test_even_draw_takes_as_many_of_each_class_without_repeating() -> None:
    labels = torch.tensor([0] * 50 + [1] * 9 + [2] * 30)
    drawn = scores.even_draw(labels, 24, seed=3)
    assert labels[drawn].bincount().tolist() == [8, 8, 8]
    assert len(drawn.unique()) == 24
    assert not torch.equal(drawn, scores.even_draw(labels, 24, seed=4))
    everything = scores.even_draw(labels, 89, seed=3)
    assert everything.sort().values.tolist() == list(range(89))
    with pytest.raises(UsageError, match="Cannot draw 90"):
        scores.even_draw(labels, 90, seed=3)


def test_score_samples_of_the_reference_itself_and_by_hand(here: Path, recipe: Recipe) -> None:
    network = store.load_feature_network("other-net")
    pictures = random_set(30, seed=0)
    reference = scores.reference_statistics(network, pictures, batch_size=7)
    images = pictures.pixels.float() / 255
    same = scores.score_samples([(images, pictures.labels)], network, reference, recipe=recipe)
    assert same.frechet == pytest.approx(0.0, abs=1e-9)
    assert same.accuracy == scores.accuracy(network(images), pictures.labels)
    assert same.count == 30

    others = random_set(20, seed=1).pixels.float() / 255
    found = scores.score_samples([(others[:13], None), (others[13:], None)], network, reference, recipe=recipe)
    features = network.embed(others).double()  # type: ignore[operator]
    expected = scores.frechet_distance(features.mean(0), features.T.cov(), reference.mean, reference.covariance)
    assert found.frechet == pytest.approx(expected, rel=1e-6)
    assert found.accuracy is None


def test_samples_are_rounded_to_8_bits_before_they_are_scored(here: Path, recipe: Recipe) -> None:
    network = store.load_feature_network("other-net")
    pictures = random_set(30, seed=0)
    reference = scores.reference_statistics(network, pictures)
    nudged = (pictures.pixels.float() / 255 + 0.4 / 255).clamp(max=1)
    found = scores.score_samples([(nudged, None)], network, reference, recipe=recipe)
    assert found.frechet == pytest.approx(0.0, abs=1e-9)


def test_floor_is_the_distance_of_an_even_draw_of_real_pictures(here: Path) -> None:
    network = store.load_feature_network("other-net")
    train, test = random_set(60, seed=0), random_set(40, seed=1)
    reference = scores.reference_statistics(network, test)
    drawn = scores.even_draw(train.labels, 12, seed=0)
    features = network.embed(train.pixels[drawn].float() / 255).double()  # type: ignore[operator]
    expected = scores.frechet_distance(features.mean(0), features.T.cov(), reference.mean, reference.covariance)
    assert scores.frechet_floor(network, train, reference, count=12) == pytest.approx(expected, rel=1e-6)


def test_a_model_is_never_scored_by_the_network_of_its_own_loss(here: Path, recipe: Recipe) -> None:
    pictures = random_set(6, seed=0)
    own = store.load_feature_network("loss-net")
    reference = scores.reference_statistics(own, pictures)
    with pytest.raises(UsageError, match="trained against the features of loss-net"):
        scores.score_samples([(pictures.pixels.float() / 255, None)], own, reference, recipe=recipe)


def test_a_renamed_copy_of_the_loss_network_is_refused_too(here: Path, recipe: Recipe, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "innocent.safetensors"
    store.save_feature_network(copy, store.load_feature_network("loss-net"), "residual", ARGUMENTS, {"image_size": 32})
    for scorer in ("loss-net", copy, str(here / "loss-net"), store.load_feature_network(copy)):
        with pytest.raises(UsageError, match="trained against the features of loss-net"):
            scores.check_independent(recipe, scorer)


def test_another_network_may_score_and_so_may_any_where_the_loss_names_none(here: Path, recipe: Recipe) -> None:
    scores.check_independent(recipe, "other-net")
    scores.check_independent(recipe, store.load_feature_network("other-net"))
    scores.check_independent(recipe.replace(loss={"perceptual": "none"}), "loss-net")

"""Scores of the same images by this package and by torch-fidelity's own command, and what cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_fidelity
from torch import Tensor

from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.data.transforms import to_float, to_uint8
from spherectl.errors import UsageError
from spherectl.evaluation import fidelity as scores
from spherectl.evaluation.embeddings import Held, real_draw
from spherectl.evaluation.extractors import Extractor, checked, register
from spherectl.evaluation.fidelity import fidelity
from spherectl.evaluation.reference import of_images, read_statistics, save_statistics
from tests.evaluation.conftest import GARMENTS, write_pngs

REAL = 64  # images to compare with

SCORES = {
    "frechet_distance": "frechet_inception_distance",
    "kid": "kernel_inception_distance_mean",
    "kid_deviation": "kernel_inception_distance_std",
    "inception_score": "inception_score_mean",
    "inception_score_deviation": "inception_score_std",
    "precision": "precision",
    "recall": "recall",
}


@pytest.fixture
def all_threads() -> Iterator[None]:
    """Inception is heavy: both cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def images(excerpt: tuple[ImageSet, ImageSet], count: int) -> tuple[Tensor, Tensor]:
    """Training images, some of them harmed so that scores have something to see, and test images."""
    train, test = excerpt
    samples = train.gather(torch.arange(count))
    samples[::3] = samples[::3].roll(5, -1)
    samples[1::4] = 255 - samples[1::4]
    return samples, test.gather(torch.arange(REAL))


def by_torch_fidelity(folders: tuple[Path, Path], **options: Any) -> dict[str, float]:
    """Their numbers of two folders of PNG files."""
    metrics: dict[str, float] = torch_fidelity.calculate_metrics(
        input1=str(folders[0]),
        input2=str(folders[1]),
        **checked(
            **options,
            fid=True,
            kid=True,
            isc=True,
            prc=True,
            kid_subset_size=REAL,
            cuda=False,
            save_cpu_ram=True,
            cache=False,
            verbose=False,
        ),
    )
    return metrics


def check_agreement(found: scores.Scores, theirs: dict[str, float]) -> None:
    for ours, key in SCORES.items():
        assert getattr(found, ours) == pytest.approx(theirs[key], rel=1e-4), ours
    assert found.frechet_distance > 0
    assert 0 < found.precision < 1
    assert 0 < found.recall < 1


@pytest.mark.slow
def test_256_images_score_as_torch_fidelity_scores_their_pngs_with_inception(
    inception_file: Path, excerpt: tuple[ImageSet, ImageSet], tmp_path: Path, all_threads: None
) -> None:
    samples, real = images(excerpt, 256)
    folders = write_pngs(tmp_path / "samples", samples), write_pngs(tmp_path / "real", real)
    theirs = by_torch_fidelity(
        folders,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_file),
        batch_size=64,
    )
    found = fidelity(samples, real, f"inception:{inception_file}")
    assert (found.features, found.count) == ("inception", 256)
    check_agreement(found, theirs)


@pytest.mark.slow
def test_images_score_as_torch_fidelity_scores_them_with_a_registered_network(
    excerpt: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    samples, real = images(excerpt, 200)
    folders = write_pngs(tmp_path / "samples", samples), write_pngs(tmp_path / "real", real)
    assert register("fashion-scorer") == register("fashion-scorer")
    theirs = by_torch_fidelity(folders, feature_extractor=register("fashion-scorer"), batch_size=17)
    check_agreement(fidelity(samples, real, "fashion-scorer"), theirs)


@pytest.mark.fast
def test_statistics_from_a_file_give_the_distance_of_the_images(
    excerpt: tuple[ImageSet, ImageSet], scorer: Extractor, tmp_path: Path
) -> None:
    samples, _ = images(excerpt, 100)
    direct = fidelity(samples, excerpt[1], scorer, metrics=["fid"])
    reference = of_images(excerpt[1], scorer)
    assert reference is not None
    save_statistics(tmp_path / "real.npz", reference)
    again = fidelity(samples, read_statistics(tmp_path / "real.npz", scorer, 32), scorer, metrics=["fid"])
    assert again.frechet_distance == pytest.approx(direct.frechet_distance, rel=1e-9)
    assert again.reference == "fashion-mnist, 100 images"


@pytest.mark.fast
def test_accuracy_counts_the_labels_that_the_network_gives(
    excerpt: tuple[ImageSet, ImageSet], scorer: Extractor
) -> None:
    test = excerpt[1]
    labels = scorer(test.gather(torch.arange(100)))["logits"].argmax(1)
    labels[:30] = (labels[:30] + 1) % 10
    found = fidelity(Held(test.gather(torch.arange(100))), excerpt[0], scorer, metrics=["acc"], labels=labels)
    assert found.accuracy == pytest.approx(0.7)
    assert found.frechet_distance is None


@pytest.mark.fast
def test_what_statistics_cannot_give_is_told(
    excerpt: tuple[ImageSet, ImageSet], scorer: Extractor, tmp_path: Path
) -> None:
    reference = of_images(excerpt[1], scorer)
    assert reference is not None
    save_statistics(tmp_path / "real.npz", reference)
    known = read_statistics(tmp_path / "real.npz", scorer, 32)
    with pytest.raises(UsageError, match="KID compares features image by image"):
        fidelity(excerpt[1], known, scorer, metrics=["fid", "kid"])


@pytest.mark.slow
def test_real_images_come_before_damaged_ones_and_those_before_noise(scorer: Extractor) -> None:
    """By the scoring network the order is that of the damage, and a little noise doubles what chance gives."""
    train, test = (open_dataset(GARMENTS, 32, split=split, download=False) for split in ("train", "test"))
    reference = of_images(test, scorer)
    assert reference is not None
    drawn = real_draw(train, 2000, seed=0)
    real = to_float(drawn.gather(torch.arange(2000)))
    noise = torch.rand(real.shape, generator=torch.Generator().manual_seed(0))
    distances = [
        fidelity(to_uint8((1 - t) * real + t * noise), reference, scorer, metrics=["fid"]).frechet_distance or 0
        for t in (0.0, 0.1, 0.3, 1.0)
    ]
    assert distances == sorted(distances)
    assert distances[1] > 2 * distances[0]
    assert distances[0] == pytest.approx(0.109, abs=0.002)  # the floor that the scorer's card states


@pytest.mark.fast
def test_too_few_images_are_refused(excerpt: tuple[ImageSet, ImageSet], scorer: Extractor) -> None:
    few = excerpt[1].gather(torch.arange(3))
    with pytest.raises(UsageError, match="at least 2 images"):
        fidelity(few[:1], excerpt[1], scorer)
    with pytest.raises(UsageError, match="at least 4 images on each side"):
        fidelity(few, excerpt[1], scorer, metrics=["prc"])


@pytest.mark.fast
@pytest.mark.parametrize("metrics", [["fdi"], "fid", ["fid", None]])
def test_a_metric_that_there_is_not_is_refused(metrics: Any) -> None:
    with pytest.raises(UsageError, match="metrics"):
        fidelity(torch.zeros(2, 3, 32, 32), torch.zeros(2, 3, 32, 32), "fashion-scorer", metrics=metrics)

"""Scores of the same images by this package and by torch-fidelity's own command, and what cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch_fidelity
from torch import Tensor

from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.data.transforms import to_float, to_uint8
from spherectl.errors import UsageError
from spherectl.evaluation import extractors
from spherectl.evaluation import fidelity as scores
from spherectl.evaluation.embeddings import Held, real_draw
from spherectl.evaluation.extractors import Extractor, checked, register
from spherectl.evaluation.fidelity import fidelity
from spherectl.evaluation.reference import of_images
from tests.evaluation.conftest import GARMENTS, write_pngs

SCORES = {
    "frechet_distance": "frechet_inception_distance",
    "kid": "kernel_inception_distance_mean",
    "kid_deviation": "kernel_inception_distance_std",
    "inception_score": "inception_score_mean",
    "inception_score_deviation": "inception_score_std",
    "precision": "precision",
    "recall": "recall",
}


def images(excerpt: tuple[ImageSet, ImageSet], count: int, real: int) -> tuple[Tensor, Tensor]:
    """Training images, some of them harmed so that scores have something to see, and test images."""
    train, test = excerpt
    samples = train.gather(torch.arange(count))
    samples[::3] = samples[::3].roll(5, -1)
    samples[1::4] = 255 - samples[1::4]
    return samples, test.gather(torch.arange(real))


def by_torch_fidelity(folders: tuple[Path, Path], **options: Any) -> dict[str, float]:
    """Their numbers of two folders of PNG files."""
    metrics: dict[str, float] = torch_fidelity.calculate_metrics(
        input1=str(folders[0]),
        input2=str(folders[1]),
        **checked(
            **{"fid": True, **options},
            kid=True,
            isc=True,
            prc=True,
            cuda=False,
            save_cpu_ram=True,
            cache=False,
            verbose=False,
        ),
    )
    return metrics


def check_agreement(found: scores.Scores, theirs: dict[str, float]) -> None:
    """Their kernels are in float32: to its last digit."""
    for ours, key in SCORES.items():
        if key in theirs:
            assert getattr(found, ours) == pytest.approx(theirs[key], rel=1e-4, abs=3e-7), ours


@pytest.mark.parametrize(
    ("count", "metrics"),
    [
        pytest.param(12, ["kid", "is", "prc"], marks=pytest.mark.slow),  # without the eigenvalues of 2048 x 2048
        pytest.param(256, ["fid", "kid", "is", "prc"], marks=pytest.mark.soak),
    ],
)
def test_images_score_as_torch_fidelity_scores_their_pngs_with_inception(
    count: int, metrics: list[str], inception_file: Path, excerpt: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    samples, real = images(excerpt, count, min(count, 64))
    folders = write_pngs(tmp_path / "samples", samples), write_pngs(tmp_path / "real", real)
    theirs = by_torch_fidelity(
        folders,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_file),
        batch_size=12,
        kid_subset_size=len(real),
        fid="fid" in metrics,
    )
    with patch.object(extractors, "CHUNK", 12):
        found = fidelity(samples, real, f"inception:{inception_file}", metrics=metrics)
    assert (found.features, found.count) == ("inception", count)
    check_agreement(found, theirs)


@pytest.mark.slow
def test_images_score_as_torch_fidelity_scores_them_with_a_registered_network(
    excerpt: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    samples, real = images(excerpt, 100, 64)
    folders = write_pngs(tmp_path / "samples", samples), write_pngs(tmp_path / "real", real)
    assert register("fashion-scorer") == register("fashion-scorer")
    theirs = by_torch_fidelity(folders, feature_extractor=register("fashion-scorer"), batch_size=17, kid_subset_size=64)
    found = fidelity(samples, real, "fashion-scorer")
    check_agreement(found, theirs)
    assert 0 < found.precision < 1
    assert 0 < found.recall < 1


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
def test_more_noise_is_a_larger_distance(excerpt: tuple[ImageSet, ImageSet], scorer: Extractor) -> None:
    reference = of_images(excerpt[1], scorer)
    assert reference is not None
    real = to_float(excerpt[0].gather(torch.arange(100)))
    noise = torch.rand(real.shape, generator=torch.Generator().manual_seed(0))
    distances = [
        fidelity(to_uint8((1 - t) * real + t * noise), reference, scorer, metrics=["fid"]).frechet_distance or 0
        for t in (0.0, 0.1, 0.3, 1.0)
    ]
    assert distances == sorted(distances)
    assert distances[2] > 2 * distances[0]


@pytest.mark.soak
def test_2000_training_images_have_the_distance_that_the_scorers_card_states(scorer: Extractor) -> None:
    train, test = (open_dataset(GARMENTS, 32, split=split, download=False) for split in ("train", "test"))
    reference = of_images(test, scorer)
    assert reference is not None
    found = fidelity(real_draw(train, 2000, seed=0), reference, scorer, metrics=["fid"]).frechet_distance
    assert found == pytest.approx(0.109, abs=0.002)


@pytest.mark.fast
def test_too_few_images_are_refused(excerpt: tuple[ImageSet, ImageSet], scorer: Extractor) -> None:
    few = excerpt[1].gather(torch.arange(3))
    with pytest.raises(UsageError, match="at least 2 images"):
        fidelity(few[:1], excerpt[1], scorer)
    with pytest.raises(UsageError, match="at least 4 images on each side"):
        fidelity(few, excerpt[1], scorer, metrics=["prc"])

"""What is said of latents, against closed forms; scores against the functions that make them, one by one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import pytest
import torch

from experiments.trial_scores import latent_directions, noised_images, scores, shared_length
from spherectl import api
from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.data.transforms import to_float, to_uint8
from spherectl.evaluation.embeddings import even_draw
from spherectl.evaluation.extractors import open_extractor
from spherectl.evaluation.fidelity import fidelity
from spherectl.model.geometry import effective_rank, spherify

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def model() -> api.Model:
    return api.load("fashion-mnist", dtype="float32")


def excerpt(model: api.Model, root: Path, split: str) -> ImageSet:
    return open_dataset(model.recipe.data, 32, root=root, split="test" if split == "test" else "train")


def test_the_shared_length_is_that_of_class_means() -> None:
    # Class 0 is one point; class 5 has two at right angles, whose mean has length 1/sqrt(2); class 7 two that oppose.
    directions = torch.tensor([[1.0, 0], [1.0, 0], [1.0, 0], [0, 1.0], [0, 1.0], [0, -1.0]])
    labels = torch.tensor([0, 0, 5, 5, 7, 7])
    assert shared_length(directions, labels) == pytest.approx((1 + math.sqrt(0.5) + 0) / 3)


def test_noised_images_are_turned_by_the_angle_of_training(
    model: api.Model, fashion_excerpt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = excerpt(model, fashion_excerpt, "train")
    seen = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda v, labels: seen.append(v) or decode(v, labels))
    images = noised_images(model, dataset, 120)
    assert (images.shape, images.dtype) == ((120, 3, 32, 32), torch.uint8)
    chosen = even_draw(dataset.labels, 120, 0)
    latents = model.encode(to_float(dataset.gather(chosen)), dataset.labels[chosen]).flatten(1)
    turned = torch.cat(seen).flatten(1)
    assert torch.allclose(spherify(turned), turned, atol=1e-4)
    angles = torch.cosine_similarity(latents, turned).acos().rad2deg()
    assert float(angles.mean()) == pytest.approx(model.recipe.noise.angle_deg, abs=1)
    assert float(angles.std()) < 4  # 1 / sqrt(512) is 2.5 degrees


def test_scores_are_those_of_the_functions_that_make_them(fashion_excerpt: Path, tiny_run: Path) -> None:
    model = api.load(tiny_run)
    train, test = (excerpt(model, fashion_excerpt, split) for split in ("train", "test"))
    about, row = scores(model, train, test, 20)
    extractor = open_extractor("fashion-scorer")
    reference = test.gather(torch.arange(len(test)))

    def frechet(images: torch.Tensor) -> float:
        return cast("float", fidelity(images, reference, extractor, metrics=["fid"]).frechet_distance)

    floor = frechet(train.gather(even_draw(train.labels, 20, 0)))
    assert about["floor"] == pytest.approx(floor, rel=0.01)
    assert (about["scorer"], about["latents"]) == ("fashion-scorer", 20)
    for steps in (1, 4):
        batches = list(api.generate(model, 20, steps=steps, guidance=1.0, noise="shared", seed=0))
        images = to_uint8(torch.cat([batch.images for batch in batches]))
        assert row[f"frechet_{steps}"] == pytest.approx(frechet(images), rel=0.01)
        assert row[f"floors_{steps}"] == pytest.approx(frechet(images) / floor, rel=0.02)
        assert row[f"spread_{steps}"] == int((images.int().amax(1) - images.int().amin(1)).max())
    assert row["floors_noised"] == pytest.approx(frechet(noised_images(model, train, 20)) / floor, rel=0.02)
    again = model.reconstruct(to_float(reference), test.labels)
    errors = (again - to_float(reference)).square().mean((1, 2, 3))
    assert row["psnr_db"] == pytest.approx(float(-10 * errors.log10().mean()), rel=0.01)
    assert (row["parameters"], row["latent_size"]) == (153_275, 128)
    assert row["rank"] == pytest.approx(effective_rank(latent_directions(model, test, 20)[0]), rel=0.01)
    assert 0 <= row["recall_4"] <= 1

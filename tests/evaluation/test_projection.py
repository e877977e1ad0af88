"""The figure of uniformity: its projection, its four panels, its points of training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.baselines import VaeAutoencoder, load_vae
from spherectl import api
from spherectl.data.datasets import ImageSet
from spherectl.data.transforms import to_float
from spherectl.evaluation.embeddings import real_draw
from spherectl.evaluation.projection import clouds, project, spread
from spherectl.evaluation.uniformity import uniformity

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def test_images(excerpt: tuple[ImageSet, ImageSet]) -> ImageSet:
    return excerpt[1]


def test_the_projection_keeps_uniform_points_uniform_and_a_pull_a_pull() -> None:
    points = torch.randn(500, 200, generator=torch.Generator().manual_seed(0))
    flat = project(points, seed=0)
    torch.testing.assert_close(flat.norm(dim=1), torch.ones(500))
    assert uniformity(flat, draws=99).mean_direction.p_value > 0.02
    torch.testing.assert_close(project(3 * points, seed=0), flat)
    torch.testing.assert_close(project(points.reshape(500, 20, 10), seed=0), flat)
    assert not torch.allclose(project(points, seed=1), flat)
    pulled = project(points + 1, seed=0)
    assert uniformity(pulled, draws=99).mean_direction.value > 5


def test_there_are_always_four_panels_of_the_same_images(
    test_images: ImageSet, tiny_run: Path, tiny_baselines: dict[str, Path]
) -> None:
    model, vae = api.load(tiny_run), load_vae(tiny_baselines["vae"])
    with_vae = clouds(model, VaeAutoencoder(vae), test_images, count=40, draws=19)
    without = clouds(model, None, test_images, count=40, draws=19)
    titles = ["latents of tiny", "truly uniform points", "means of vae", "pixels less their mean"]
    assert [cloud.title for cloud in with_vae] == titles
    assert [cloud.title for cloud in without] == [*titles[:2], "means of a VAE: none given", titles[3]]
    assert [cloud.projected is None for cloud in without] == [False, False, True, False]
    assert without[2].measured is None
    draw = real_draw(test_images, 40, 0)
    images, labels = to_float(draw.gather(torch.arange(40))), test_images.labels[draw.indices]
    latents, uniform, means, pixels = (cloud.projected for cloud in with_vae)
    torch.testing.assert_close(latents, project(model.encode(images, labels), 0))
    torch.testing.assert_close(means, project(vae.posterior(images, labels)[0], 0))
    torch.testing.assert_close(pixels, project(images - images.mean(0), 0))
    assert uniform is not None
    for cloud in with_vae:
        assert torch.equal(cloud.labels, labels)
        assert cloud.measured is not None
        assert cloud.measured.overall.count == 40
        assert [name for name, _ in cloud.measured.classes] == list(test_images.class_names)
    measured = with_vae[1].measured
    assert measured is not None
    assert measured.overall.dimension == 128
    assert measured.overall.effective_rank.p_value > 0.05
    assert measured.overall.effective_rank.value == pytest.approx(measured.overall.effective_rank.expected, rel=0.05)


def test_points_of_training_are_those_nearest_to_thirds(tmp_path: Path) -> None:
    def of(*images: int) -> list[int]:
        return [int(path.name) for path in spread([tmp_path / f"{one:012d}" for one in images])]

    assert of(20, 40, 55, 60) == [20, 40, 60]
    assert of(5, 60) == [5, 60]
    assert of(60) == [60]
    assert of() == []
    assert of(10, 20, 30, 40, 50, 60, 70, 80, 90) == [30, 60, 90]

"""The posterior hole: a fitted Gaussian against its closed form, columns against what they are of, published VAEs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.baselines import VaeAutoencoder, load_vae
from spherectl import api
from spherectl.data.datasets import ImageSet
from spherectl.data.transforms import to_float, to_uint8
from spherectl.errors import FileError, UsageError
from spherectl.evaluation.autoencoders import PublishedVae, SphereAutoencoder
from spherectl.evaluation.embeddings import real_draw
from spherectl.evaluation.extractors import Extractor
from spherectl.evaluation.fidelity import fidelity
from spherectl.evaluation.posterior import COLUMNS, Gaussian, fit, posterior_hole
from spherectl.evaluation.reference import of_images
from spherectl.model import seeding
from spherectl.model.geometry import spherify

pytestmark = pytest.mark.fast

Excerpt = tuple[ImageSet, ImageSet]


class Shrinking:
    """Latents are images of 4 x 4 at a tenth of their brightness; each is as uncertain as it is told to be."""

    name = "shrinking"
    latent_shape = (3, 4, 4)

    def __init__(self, variance: float = 0.0) -> None:
        self.variance = variance

    def posterior(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        small = torch.nn.functional.avg_pool2d(images, 8) / 10
        return small, torch.full_like(small, self.variance)

    def place(self, latents: Tensor) -> Tensor:
        return latents

    def decode(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        return torch.nn.functional.interpolate(latents * 10, scale_factor=8).clamp(0, 1)


def test_the_gaussian_has_the_moments_of_the_posteriors() -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(50, 4, generator=generator) @ torch.randn(4, 4, generator=generator) + 3
    variance = torch.tensor([0.0, 0.5, 1.0, 2.0])
    gaussian = Gaussian(means.mean(0), means - means.mean(0), variance)
    drawn = gaussian.draw(torch.arange(40_000), seed=1)
    torch.testing.assert_close(drawn.mean(0), means.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), means.T.cov() + variance.diag(), atol=0.1, rtol=0.03)
    assert torch.equal(gaussian.draw(torch.arange(7, 9), seed=1), drawn[7:9])


def test_columns_are_scored_as_their_images_are(excerpt: Excerpt, scorer: Extractor) -> None:
    train, test = excerpt
    reference = of_images(test, scorer)
    assert reference is not None
    told: list[tuple[int, int]] = []
    tell: Any = lambda done, total, *_: told.append((done, total))  # noqa: E731
    models = [Shrinking(), Shrinking(4.0)]
    holes = posterior_hole(models, train, reference, scorer, count=40, resamples=20, progress=tell)
    assert told == [(number, 7) for number in range(1, 8)]
    for hole in holes:
        assert [column.name for column in hole.columns] == list(COLUMNS)
        for column in hole.columns:
            alone = fidelity(column.pixels, reference, scorer, metrics=["fid"]).frechet_distance
            assert column.frechet_distance == pytest.approx(alone)
            assert column.interval is not None
            assert column.interval[0] <= column.interval[1]
    chosen = real_draw(train, 40, 0)
    inputs = chosen.gather(torch.arange(40))
    assert torch.equal(holes[0].column("input").pixels, inputs)
    mean, _ = models[0].posterior(to_float(inputs), None)
    assert torch.equal(holes[0].column("reconstruction").pixels, to_uint8(models[0].decode(mean, None)))
    prior = seeding.noise(0, seeding.INITIAL, torch.arange(40), (3, 4, 4))
    assert torch.equal(holes[0].column("prior").pixels, to_uint8(models[0].decode(prior, None)))
    for model, hole in zip(models, holes, strict=True):
        fitted = fit(model, train).draw(torch.arange(40), 0).reshape(40, 3, 4, 4)
        assert torch.equal(hole.column("fitted").pixels, to_uint8(model.decode(fitted, None)))
    assert not torch.equal(holes[0].column("fitted").pixels, holes[1].column("fitted").pixels)
    assert holes[1].column("input").frechet_distance == holes[0].column("input").frechet_distance


def test_sphere_and_vae_have_one_face(excerpt: Excerpt, tiny_run: Path, tiny_baselines: dict[str, Path]) -> None:
    images, labels = to_float(excerpt[0].gather(torch.arange(3))), excerpt[0].labels[:3]
    model = api.load(tiny_run)
    sphere = SphereAutoencoder(model)
    mean, variance = sphere.posterior(images, labels)
    torch.testing.assert_close(mean, model.encode(images, labels))
    assert not variance.any()
    noise = torch.randn(3, *sphere.latent_shape)
    torch.testing.assert_close(sphere.place(noise), spherify(noise))
    torch.testing.assert_close(sphere.decode(mean, labels), model.reconstruct(images, labels))
    loaded = load_vae(tiny_baselines["vae"])
    vae = VaeAutoencoder(loaded)
    mean, variance = vae.posterior(images, labels)
    assert mean.shape == variance.shape == (3, *vae.latent_shape)
    assert bool((variance > 0).all())
    assert torch.equal(vae.place(noise), noise)
    prior = seeding.noise(0, seeding.INITIAL, torch.arange(3), vae.latent_shape)
    torch.testing.assert_close(vae.decode(vae.place(prior), labels), loaded.sample(torch.arange(3), labels))


# Published VAEs


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny AutoencoderKL of random weights, as diffusers saves one."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 4, "layers_per_block": 1}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    folder = tmp_path_factory.mktemp("published")
    diffusers.AutoencoderKL(**sizes, **kinds).save_pretrained(folder / "pipeline" / "vae")
    return folder / "pipeline"


@torch.no_grad()
def test_a_published_vae_computes_what_diffusers_does(published: Path, excerpt: Excerpt) -> None:
    import diffusers

    images = to_float(excerpt[0].gather(torch.arange(2)))
    vae = PublishedVae(str(published), 32, torch.device("cpu"))  # a pipeline's folder, with its vae/ in it
    assert vae.latent_shape == (4, 16, 16)
    theirs = diffusers.AutoencoderKL.from_pretrained(published / "vae")
    found = theirs.encode(images * 2 - 1).latent_dist
    mean, variance = vae.posterior(images, None)
    torch.testing.assert_close(mean, found.mean)
    torch.testing.assert_close(variance, found.std.square())
    drawn = vae.decode(mean, None)
    torch.testing.assert_close(drawn, (theirs.decode(found.mean).sample / 2 + 0.5).clamp(0, 1))
    assert PublishedVae(str(published / "vae"), 32, torch.device("cpu")).name == "vae"


def test_a_published_vae_that_does_not_fit_is_a_sentence(published: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="halves images to 1/2 of their side, which 33 px do not allow"):
        PublishedVae(str(published), 33, torch.device("cpu"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileError, match="Cannot read a VAE of diffusers at"):
        PublishedVae(str(tmp_path), 32, torch.device("cpu"))


@pytest.mark.parametrize(
    "changes",
    [
        {"block_out_channels": [4096] * 8},
        {"layers_per_block": 10**9},
        {"down_block_types": ["os.system"] * 2},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
    ],
    ids=str,
)
def test_a_published_vae_whose_config_is_not_of_its_weights(
    changes: dict[str, Any], published: Path, tmp_path: Path
) -> None:
    shutil.copytree(published / "vae", tmp_path / "vae")
    config = tmp_path / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    with pytest.raises(FileError, match="Cannot read a VAE of diffusers at") as caught:
        PublishedVae(str(tmp_path), 32, torch.device("cpu"))
    assert len(caught.value.message) < 400 + 2 * len(str(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model.safetensors"])
@pytest.mark.parametrize("what", ["pipe", "cut"])
def test_a_published_vae_with_a_damaged_file(name: str, what: str, published: Path, tmp_path: Path) -> None:
    shutil.copytree(published / "vae", tmp_path / "vae")
    path = tmp_path / "vae" / name
    content = path.read_bytes()
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(content[:100])
    with pytest.raises(FileError):
        PublishedVae(str(tmp_path / "vae"), 32, torch.device("cpu"))

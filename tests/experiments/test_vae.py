"""The VAE's mathematics against torch.distributions and closed forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from experiments import vae
from spherectl.model import seeding
from spherectl.recipe import ModelSpec

pytestmark = pytest.mark.fast

SPEC = ModelSpec(kind="vae", size="nano", patch_size=8, token_channels=8, num_classes=10, encoder_mixer_blocks=0)


def test_the_divergence_is_that_of_two_normal_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).mean()
    assert float(vae.divergence(mean, log_variance)) == pytest.approx(float(expected), rel=1e-12)
    nothing = torch.zeros(2, 3, 4)
    assert float(vae.divergence(nothing, nothing)) == 0


def test_the_decoder_sees_a_sample_of_the_posterior_and_the_parts_are_weighted() -> None:
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    mean, deviation = torch.rand(2, 2, 3, 5, dtype=torch.float64)
    noise = torch.randn(2, 3, 5, dtype=torch.float64)
    seen: list[Tensor] = []

    def decode(z: Tensor, y: Tensor | None) -> Tensor:
        seen.append(z)
        return torch.zeros(2, 3, 4, 4, dtype=torch.float64)  # grey, 0.5 in [0, 1]

    losses = vae.objective(
        lambda x, y: torch.cat((mean, 2 * deviation.log()), dim=-1),
        decode,
        images,
        vae.VaeNoise(noise),
        weights=vae.VaeWeights(rec=3.0, rec_perceptual=1.0, kl=0.25),
    )
    torch.testing.assert_close(seen[0], mean + deviation * noise)
    assert float(losses.rec) == pytest.approx(3 * float(F.mse_loss(images, torch.full_like(images, 0.5))) / 2)
    expected = 0.25 * kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).mean()
    assert float(losses.kl) == pytest.approx(float(expected))
    assert float(losses.total) == pytest.approx(float(losses.rec + losses.kl))
    torch.testing.assert_close(losses.mean, mean)


def test_what_is_drawn_for_an_image_depends_on_its_number_alone() -> None:
    labels = torch.arange(100) % 10
    every = vae.training_noise(3, torch.arange(100), labels, latent_shape=(4, 2), num_classes=10, label_dropout=0.3)
    some = vae.training_noise(
        3, torch.arange(40, 60), labels[40:60], latent_shape=(4, 2), num_classes=10, label_dropout=0.3
    )
    assert every.labels_encode is not None
    assert every.labels_decode is not None
    assert torch.equal(every.noise[40:60], some.noise)
    assert torch.equal(every.labels_encode[40:60], some.labels_encode)
    assert torch.equal(every.noise, seeding.noise(3, seeding.TRAINING, torch.arange(100), (4, 2)))
    for dropped in (every.labels_encode, every.labels_decode):
        null = dropped == 10
        assert 15 <= int(null.sum()) <= 45
        assert torch.equal(dropped[~null], labels[~null])
    assert not torch.equal(every.labels_encode, every.labels_decode)
    assert vae.training_noise(3, torch.arange(2), labels[:2], latent_shape=(4, 2)).labels_encode is None

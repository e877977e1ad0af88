"""A variational autoencoder of the same trunk, to compare the Sphere Encoder with (Kingma and Welling, 2013).

Its encoder gives a mean and a log variance for each entry of a latent, its posterior is a Gaussian of these, its prior
N(0, I). Nothing is put on a sphere. All else is the Sphere Encoder's: blocks, conditioning, pixel head, losses of a
reconstruction.

Shapes: B batch, N tokens, d token channels. Images are in [-1, 1] in the networks, in [0, 1] in the objective.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spherectl.model import seeding
from spherectl.model.geometry import at_least_float32
from spherectl.model.objective import Perceptual
from spherectl.model.sampler import Network
from spherectl.model.sphere import build_decoder, build_encoder
from spherectl.model.vit import Decoder, Encoder
from spherectl.recipe import LossSpec, ModelSpec, Recipe
from spherectl.training import Part, Step, flops
from spherectl.training.monitor import latent_norm
from spherectl.training.perceptual import PerceptualDistance
from spherectl.training.step import with_pooled

LOG_VARIANCES = (-30.0, 20.0)  # what leaves these would overflow


class VariationalAutoencoder(nn.Module):
    """An encoder to Gaussian posteriors and a decoder from their points.

    Args:
        encoder: images (B, 3, H, W) and labels (B,) to means and log variances (B, N, 2 d).
        decoder: latents (B, N, d) and labels (B,) to images (B, 3, H, W).
    """

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    @property
    def num_classes(self) -> int:
        """Classes without the null class; 0 for an unconditional model."""
        return self.encoder.num_classes

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(N, d)."""
        return self.encoder.grid**2, self.encoder.ffn.linear.out_features // 2


def build(spec: ModelSpec) -> VariationalAutoencoder:
    """The networks of a [model] table whose kind is "vae"; the encoder ends in 2 d channels a token."""
    return VariationalAutoencoder(build_encoder(spec, 2 * spec.channels_per_token), build_decoder(spec))


def posterior(encoded: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance, (B, N, d) each in float32 at least, of what the encoder gives, (B, N, 2 d)."""
    mean, log_variance = at_least_float32(encoded).chunk(2, dim=-1)
    return mean, log_variance.clamp(*LOG_VARIANCES)


# KL(N(m, s^2) || N(0, 1)) = (m^2 + s^2 - 1 - ln s^2) / 2
def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean over batch and entries of the divergence from the prior, in nats: a scalar."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


@dataclass(frozen=True)
class VaeWeights:
    """Weights of the three parts: both of a reconstruction, and of the divergence's mean over a latent's entries."""

    rec: float = 1.0
    rec_perceptual: float = 1.0
    kl: float = 0.01


@dataclass(frozen=True)
class VaeNoise:
    """Everything random in one training step.

    Attributes:
        noise: (B, N, d), of the posterior's sample.
        labels_encode, labels_decode: (B,) labels after dropout; None for unconditional networks.
    """

    noise: Tensor
    labels_encode: Tensor | None = None
    labels_decode: Tensor | None = None


@dataclass(frozen=True)
class VaeLosses:
    """Weighted parts, their sum, and the means of the posteriors, (B, N, d), without gradient."""

    total: Tensor
    rec: Tensor
    rec_perceptual: Tensor
    kl: Tensor
    mean: Tensor


# w_rec smoothL1(x', x) + w_rec_p P(x', x) + w_kl KL, x' = D(m + s e, y), (m, s) = E(x, y)
def objective(
    encode: Network,
    decode: Network,
    images: Tensor,
    noise: VaeNoise,
    *,
    weights: VaeWeights,
    perceptual: Perceptual | None = None,
) -> VaeLosses:
    """One step's loss; call `.total.backward()`.

    Args:
        encode: (B, 3, H, W) in [-1, 1] and labels to (B, N, 2 d).
        decode: latents and labels to images in [-1, 1].
        images: (B, 3, H, W) in [0, 1].
        noise: from `training_noise`.
        weights: of the parts.
        perceptual: distance P; None leaves its part out.
    """
    mean, log_variance = posterior(encode(images * 2 - 1, noise.labels_encode))
    z = mean + (log_variance / 2).exp() * noise.noise.to(mean.dtype)  # (B, N, d)
    decoded = at_least_float32(decode(z, noise.labels_decode)) / 2 + 0.5  # (B, 3, H, W)
    target = at_least_float32(images).to(decoded.dtype)
    rec = weights.rec * F.smooth_l1_loss(decoded, target)
    rec_perceptual = rec.new_zeros(())
    if perceptual is not None and weights.rec_perceptual:
        with torch.no_grad():
            wanted = perceptual.features(target)
        rec_perceptual = weights.rec_perceptual * perceptual.compare(perceptual.features(decoded), wanted)
    kl = weights.kl * divergence(mean, log_variance)
    return VaeLosses(rec + rec_perceptual + kl, rec, rec_perceptual, kl, mean.detach())


def training_noise(
    seed: int,
    images: Tensor,
    labels: Tensor | None,
    *,
    latent_shape: tuple[int, ...],
    num_classes: int = 0,
    label_dropout: float = 0.1,
) -> VaeNoise:
    """Everything random for images of a training, by their numbers: the same in any batch, on any device.

    Args:
        seed: of the run.
        images: (B,) images seen before each, over all processes.
        labels: (B,) classes, or None for unconditional networks.
        latent_shape: (N, d).
        num_classes: the null class's label.
        label_dropout: probability of the null class, drawn for each network.
    """
    noise = seeding.noise(seed, seeding.TRAINING, images, latent_shape)  # (B, N, d)
    if labels is None or num_classes == 0:
        return VaeNoise(noise)
    dropped = [
        seeding.with_null(seed, stream, images, labels, num_classes, label_dropout)
        for stream in (seeding.DROP_E, seeding.DROP_D)
    ]
    return VaeNoise(noise, *dropped)


def moved(noise: Any, device: torch.device) -> Any:
    """A step's noise with all its tensors on a device."""
    tensors: dict[str, Tensor | None] = vars(noise)
    found = {name: None if tensor is None else tensor.to(device) for name, tensor in tensors.items()}
    return type(noise)(**found)


def step(recipe: Recipe, perceptual: PerceptualDistance | None) -> Step:
    """A VAE's step under the training loop; its latents are the means of the posteriors."""
    spec = recipe.model

    def noise(labels: Tensor, part: Part) -> tuple[VaeNoise, LossSpec]:
        found = training_noise(
            recipe.run.seed,
            part.numbers,
            labels if spec.classes else None,
            latent_shape=(spec.tokens, spec.channels_per_token),
            num_classes=spec.classes,
            label_dropout=recipe.loss.label_dropout,
        )
        return moved(found, part.device), recipe.loss.after(part.images_seen)

    def loss(networks: Any, images: Tensor, noise: tuple[VaeNoise, LossSpec]) -> dict[str, Tensor]:
        random, weights = noise
        found = objective(
            networks.encoder,
            networks.decoder,
            images,
            random,
            weights=VaeWeights(weights.rec, weights.rec_perceptual, weights.kl),
            perceptual=with_pooled(perceptual, weights),
        )
        return {
            "loss": found.total,
            "loss_rec": found.rec,
            "loss_rec_perc": found.rec_perceptual,
            "loss_kl": found.kl,
            "latent_norm": latent_norm(found.mean),
            "latents": found.mean,
        }

    return Step(noise, loss)


def gflop(recipe: Recipe) -> float:
    """GFLOP of a training step for each image: E(x) and D once, and the perceptual part."""
    spec = recipe.model
    forward = flops.encoder_flop(spec, 2 * spec.channels_per_token) + flops.decoder_flop(spec)
    return flops.both_ways_gflop(spec, forward) + flops.perceptual_gflop(recipe, int(bool(recipe.loss.rec_perceptual)))

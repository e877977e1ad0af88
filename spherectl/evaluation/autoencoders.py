"""One face for models with an encoder and a decoder: the Sphere Encoder, a VAE of ours, a published VAE of diffusers.

Each says which points of its latent space a picture stands for (a mean and a variance), which points it takes for
latents at all (`place`: the sphere, or anywhere), and what a point decodes to.

Letters: B batch; a latent has the shape `latent_shape`, whatever its axes are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from spherectl import api
from spherectl.baselines import Vae
from spherectl.errors import FileError, UsageError
from spherectl.model import sampler
from spherectl.model.geometry import spherify
from spherectl.settings import load_settings

DIFFUSERS = "diffusers:"  # before the path of a published VAE


class Autoencoder(Protocol):
    """An encoder and a decoder, for pictures of one size.

    Attributes:
        name: for people.
    """

    name: str

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one latent."""

    def posterior(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and variance (B, ...) of pictures (B, 3, H, W) in [0, 1], on the CPU."""

    def place(self, latents: Tensor) -> Tensor:
        """Points (B, ...) of a Gaussian, brought to where latents are."""

    def decode(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Pictures in [0, 1] of latents (B, ...), on the CPU."""


class SphereAutoencoder:
    """A Sphere Encoder: a picture is one point of the sphere."""

    def __init__(self, model: api.Model) -> None:
        self.model, self.name = model, model.name

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(N, d)."""
        return self.model.network.latent_shape

    def posterior(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The point f(E(x, y)), without variance."""
        v = self.model.encode(images, labels).cpu()  # (B, N, d)
        return v, torch.zeros_like(v)

    def place(self, latents: Tensor) -> Tensor:
        """The points of the sphere below them."""
        return spherify(latents)

    def decode(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """D(v, y)."""
        return self.model.decode(latents, labels).cpu()


class VaeAutoencoder:
    """A VAE of ours."""

    def __init__(self, model: Vae) -> None:
        self.model, self.name = model, model.name

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(N, d)."""
        return self.model.latent_shape

    def posterior(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Of the encoder."""
        mean, variance = self.model.posterior(images, labels)
        return mean.cpu(), variance.cpu()

    def place(self, latents: Tensor) -> Tensor:
        """As they are."""
        return latents

    def decode(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Of the decoder."""
        return self.model.decode(latents, labels).cpu()


class PublishedVae:
    """An AutoencoderKL as diffusers publishes it, for Stable Diffusion or FLUX; classes mean nothing to it.

    Its prior is that of its own training, N(0, I), before the scale that diffusion models give its latents.

    Args:
        path: a folder with its config.json and safetensors, or with such a folder vae/ in it; else a repository of the
            Hugging Face hub.
        image_size: side of the pictures it is used for.
        device: where it computes.

    Raises:
        UsageError: diffusers is not installed, or the size does not fit the model.
        FileError: it cannot be read or fetched.
    """

    def __init__(self, path: str, image_size: int, device: torch.device) -> None:
        try:
            from diffusers import AutoencoderKL
        except ImportError:
            raise UsageError(
                "A published VAE needs the package diffusers, which is not installed.",
                "Install it with spherectl's extra: pip install 'spherectl[diffusers]'.",
            ) from None
        folder = "vae" if (Path(path) / "vae" / "config.json").is_file() else None
        try:
            # Safetensors alone: nothing is unpickled.
            options = {"use_safetensors": True, "local_files_only": load_settings().offline}
            loaded: Any = AutoencoderKL.from_pretrained(path, subfolder=folder, **options)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise FileError(f"Cannot read a VAE of diffusers at {path}: {reason}.") from None
        self.name, self._device = Path(path).name, device
        self._network = loaded.to(device).eval().requires_grad_(False)
        config = loaded.config
        factor = 2 ** (len(config.block_out_channels) - 1)
        if image_size % factor:
            raise UsageError(f"{path} halves pictures to 1/{factor} of their side, which {image_size} px do not allow.")
        self._shape = (int(config.latent_channels), image_size // factor, image_size // factor)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(c, H / f, W / f)."""
        return self._shape

    @torch.no_grad()
    def posterior(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - has none
        """Of the encoder."""
        found = self._network.encode(images.to(self._device) * 2 - 1).latent_dist
        return found.mean.cpu(), found.var.cpu()

    def place(self, latents: Tensor) -> Tensor:
        """As they are."""
        return latents

    @torch.no_grad()
    def decode(self, latents: Tensor, labels: Tensor | None) -> Tensor:  # noqa: ARG002 - has none
        """Of the decoder."""
        return sampler.to_unit(self._network.decode(latents.to(self._device)).sample).cpu()

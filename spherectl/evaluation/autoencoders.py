"""One face for models with an encoder and a decoder: the Sphere Encoder, and a published VAE of diffusers.

Other kinds of networks bring theirs (`registry.NetworkKind.autoencoder`).

Each says which points of its latent space an image stands for (a mean and a variance), which points it takes for
latents at all (`place`: the sphere, or anywhere), and what a point decodes to.

Letters: B batch; a latent has the shape `latent_shape`, whatever its axes are.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from spherectl import api
from spherectl.documents import parse_table
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.files import expanded, is_there, read_bytes
from spherectl.model import sampler
from spherectl.model.geometry import spherify
from spherectl.safetensors_header import safetensors_header
from spherectl.settings import load_settings
from spherectl.shown import shortened
from spherectl.validation import validated

DIFFUSERS = "diffusers:"  # before the path of a published VAE

MAX_CONFIG = 1 << 20  # bytes of config.json; published ones have below 1 kB
MAX_BLOCKS = 8  # each halves the image; published ones have 4
MAX_LAYERS = 16  # of a block; published ones have 2
MAX_CHANNELS = 4_096  # of a block; published ones have at most 512

Channels = Annotated[int, Field(ge=1, le=MAX_CHANNELS)]
Blocks = Annotated[list[Annotated[str, Field(max_length=100)]], Field(min_length=1, max_length=MAX_BLOCKS)]


class Config(BaseModel):
    """What decides the size of an AutoencoderKL in its config.json; diffusers reads the rest."""

    model_config = ConfigDict(strict=True, extra="allow")

    block_out_channels: Annotated[list[Channels], Field(min_length=1, max_length=MAX_BLOCKS)]
    down_block_types: Blocks
    up_block_types: Blocks
    latent_channels: Channels
    layers_per_block: Annotated[int, Field(ge=1, le=MAX_LAYERS)] = 1
    norm_num_groups: Channels = 32
    in_channels: Annotated[int, Field(ge=3, le=3)] = 3
    out_channels: Annotated[int, Field(ge=3, le=3)] = 3
    quantization_config: None = None  # it would have diffusers import other packages


class Autoencoder(Protocol):
    """An encoder and a decoder, for images of one size.

    Attributes:
        name: for people.
    """

    name: str

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one latent."""

    def posterior(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and variance (B, ...) of images (B, 3, H, W) in [0, 1], on the CPU."""

    def place(self, latents: Tensor) -> Tensor:
        """Points (B, ...) of a Gaussian, brought to where latents are."""

    def decode(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Images in [0, 1] of latents (B, ...), on the CPU."""


class SphereAutoencoder:
    """A Sphere Encoder: an image is one point of the sphere."""

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


class PublishedVae:
    """An AutoencoderKL as diffusers publishes it, for Stable Diffusion or FLUX; classes mean nothing to it.

    Its prior is that of its own training, N(0, I), before the scale that diffusion models give its latents.

    Args:
        path: a folder with its config.json and safetensors, or with such a folder vae/ in it; else a repository of the
            Hugging Face hub.
        image_size: side of the images it is used for.
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
        place = expanded(path)
        inner = "vae" if is_there(place / "vae" / "config.json") else None
        if is_there(place):
            _check_published(AutoencoderKL, place / (inner or ""))
        try:
            # Safetensors alone: nothing is unpickled.
            options = {"use_safetensors": True, "local_files_only": is_there(place) or load_settings().offline}
            loaded: Any = AutoencoderKL.from_pretrained(str(place), subfolder=inner, **options)
        except Exception as error:  # noqa: BLE001 diffusers raises whatever it trips over
            raise _unreadable(path, error) from None
        self.name, self._device = place.name, device
        self._network = loaded.to(device).eval().requires_grad_(False)
        config = loaded.config
        factor = 2 ** (len(config.block_out_channels) - 1)
        if image_size % factor:
            raise UsageError(f"{path} halves images to 1/{factor} of their side, which {image_size} px do not allow.")
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


def _check_published(kind: Any, folder: Path) -> None:
    """Hold what a folder's config.json says against its weights, before diffusers makes a network of it.

    Args:
        kind: diffusers' AutoencoderKL.
        folder: with config.json and its weights.

    Raises:
        FileError: one is missing or damaged, or they do not belong together.
    """
    path = folder / "config.json"
    try:
        table = parse_table(read_bytes(path, MAX_CONFIG), str(path))
    except SpherectlError:
        raise
    except OSError as error:
        raise FileError(f"Cannot read a VAE of diffusers at {folder}: {path.name}: {error.strerror}.") from None
    validated(Config, table, f"Cannot read a VAE of diffusers at {folder}: {path.name}")
    weights = folder / "diffusion_pytorch_model.safetensors"
    if is_there(f"{weights}.index.json"):
        raise FileError(f"Cannot read a VAE of diffusers at {folder}: expected its weights in one file.")
    tensors = safetensors_header(weights).tensors
    try:
        with torch.device("meta"):  # no memory, whatever its sizes are
            network = kind.from_config(table)
        expected = sum(tensor.numel() for tensor in network.state_dict().values())
    except Exception as error:  # noqa: BLE001 as above
        raise _unreadable(folder, error) from None
    # Not name by name: diffusers renames those of its first versions.
    if expected != sum(math.prod(info.shape) for info in tensors.values()):
        raise FileError(f"Cannot read a VAE of diffusers at {folder}: its weights are not those of its config.json.")


def _unreadable(path: str | Path, error: Exception) -> FileError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return FileError(f"Cannot read a VAE of diffusers at {path}: {shortened(reason)}.")

"""A VAE and a diffusion model, loaded.

Images are float (B, 3, H, W) in [0, 1] here. Samples depend on the seed and an image's number, as in `spherectl.api`,
and start from the same counters.

Letters: B batch, N tokens, d token channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

import experiments
from experiments import diffusion, vae
from spherectl import zoo
from spherectl.classes import names_of
from spherectl.errors import UsageError
from spherectl.fetch import file_hash
from spherectl.model import sampler, seeding
from spherectl.model.devices import choose_device
from spherectl.model.formats import weights
from spherectl.model.formats.header import read_header
from spherectl.model.formats.weights import Package
from spherectl.recipe import Recipe
from spherectl.registry import SPHERE, of_header
from spherectl.settings import load_settings


class Baseline:
    """A loaded baseline, in float32.

    Attributes:
        network: the bare networks, which speak [-1, 1].
        name: of the run or file.
        recipe, class_names, header: what the file says of itself.
        device: where it computes.
        sha256: hash of the file; empty for a model that came from none.
    """

    def __init__(
        self, network: Any, header: dict[str, Any], *, name: str, device: torch.device, file: Path | None = None
    ) -> None:
        self.network, self.header, self.name, self.device = network.to(device), header, name, device
        self.recipe: Recipe = Package(header, {}).recipe
        named = header.get("class_names") or names_of(str(header.get("data", "")), self.num_classes)
        self.class_names: tuple[str, ...] = tuple(named)
        self.sha256 = file_hash(file) if file is not None else ""

    @property
    def num_classes(self) -> int:
        """Classes without the null class; 0 for an unconditional model."""
        return cast("int", self.network.num_classes)

    def labels(self, classes: Tensor | None, batch: int) -> Tensor | None:
        """(B,) labels where the model computes; no classes: the null class; None for an unconditional model."""
        if self.num_classes == 0:
            return None
        chosen = torch.full((batch,), self.num_classes) if classes is None else classes
        return chosen.to(self.device)

    def spread(self, count: int) -> Tensor | None:
        """(count,) all classes in turn; None for an unconditional model."""
        return torch.arange(count) % self.num_classes if self.num_classes else None


class Vae(Baseline):
    """A variational autoencoder."""

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(N, d)."""
        return cast("vae.VariationalAutoencoder", self.network).latent_shape

    @torch.no_grad()
    def posterior(self, images: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and variance of images' posteriors, (B, N, d) each."""
        encoded = self.network.encoder(images.to(self.device) * 2 - 1, self.labels(classes, len(images)))
        mean, log_variance = vae.posterior(encoded)
        return mean, log_variance.exp()

    @torch.no_grad()
    def decode(self, latents: Tensor, classes: Tensor | None = None) -> Tensor:
        """Images of latents (B, N, d)."""
        labels = self.labels(classes, len(latents))
        return sampler.to_unit(self.network.decoder(latents.to(self.device), labels))

    def sample(self, indices: Tensor, classes: Tensor | None, *, seed: int = 0) -> Tensor:
        """Images of the prior N(0, I), by their numbers (B,), on the CPU."""
        z = seeding.noise(seed, seeding.INITIAL, indices, self.latent_shape)  # (B, N, d)
        return self.decode(z, classes).cpu()


class DiffusionModel(Baseline):
    """A diffusion model."""

    def sample(
        self,
        indices: Tensor,
        classes: Tensor | None,
        *,
        steps: int,
        solver: diffusion.Solver = "ddim",
        seed: int = 0,
    ) -> Tensor:
        """Images by their numbers (B,), on the CPU; raises as `diffusion.generate`."""
        side = self.recipe.model.image_size
        grey = self.recipe.data.channels == "grey"
        noise = diffusion.image_noise(seed, seeding.INITIAL, indices, side, grey=grey).to(self.device)
        labels = self.labels(classes, len(indices))
        return diffusion.generate(self.network.denoiser, noise, labels, steps=steps, solver=solver).cpu()


def load_vae(model: str | Path, *, device: str = "auto") -> Vae:
    """Load a VAE from a model file or a run folder; raises as `load_baseline`."""
    found = load_baseline(model, device=device)
    if not isinstance(found, Vae):
        raise UsageError(f"{model} holds a diffusion; a vae is needed here.", "Give another model.")
    return found


def load_baseline(model: str | Path, *, device: str = "auto") -> Vae | DiffusionModel:
    """Load a VAE or a diffusion model.

    Args:
        model: a model file, or a run folder.
        device: auto, cpu, cuda, cuda:1, mps.

    Raises:
        UsageError: there is no such model, or it is neither.
        FileError: it cannot be read.
    """
    found = zoo.find_model(str(model), load_settings())
    kind = of_header(read_header(found.path).get("architecture")) if found.path.is_file() else SPHERE
    if kind not in (experiments.VAE, experiments.DIFFUSION):
        held = kind.header_name if kind is not None else "file of another kind"
        raise UsageError(f"{found.path} holds a {held}; a vae or diffusion is needed here.", "Give another model.")
    package = weights.read_package(found.path, kind.header_name, raw=False)
    with torch.device("meta"):
        network = kind.build(package.recipe.model)
    weights.fill(network, package.weights)
    wrapper = Vae if kind is experiments.VAE else DiffusionModel
    return wrapper(network, package.header, name=found.name, device=choose_device(device), file=found.path)


class VaeAutoencoder:
    """A VAE as `spherectl.evaluation.autoencoders.Autoencoder`."""

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


def open_autoencoder(path: Path, image_size: int, device: str) -> VaeAutoencoder:
    """What `plot posterior-hole --vae RUN` compares with.

    Raises:
        UsageError: it is for images of another size.
    """
    loaded = load_vae(path, device=device)
    size = loaded.recipe.model.image_size
    if size != image_size:
        raise UsageError(f"{path} is a VAE of {size} px, the model is of {image_size} px.", "Give another VAE.")
    return VaeAutoencoder(loaded)

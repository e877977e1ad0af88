"""Models that the Sphere Encoder is compared with, loaded: a VAE and a diffusion model of the same trunk.

Images are float (B, 3, H, W) in [0, 1] here. What is drawn depends on the seed and an image's number, as in
`spherectl.api`, and starts from the same counters.

Letters: B batch, N tokens, d token channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast, overload

import torch
from torch import Tensor

from spherectl import zoo
from spherectl.checks import check_choice
from spherectl.classes import names_of
from spherectl.errors import UsageError
from spherectl.fetch import file_hash
from spherectl.model import diffusion, kinds, sampler, seeding, vae, weights
from spherectl.model.devices import choose_device
from spherectl.model.weights import Package
from spherectl.recipe import Recipe
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

    def draw(self, indices: Tensor, classes: Tensor | None, *, seed: int = 0) -> Tensor:
        """Images of the prior N(0, I), by their numbers (B,), on the CPU."""
        z = seeding.noise(seed, seeding.INITIAL, indices, self.latent_shape)  # (B, N, d)
        return self.decode(z, classes).cpu()


class DiffusionModel(Baseline):
    """A diffusion model."""

    def draw(
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


WRAPPERS: dict[str, type[Vae | DiffusionModel]] = {"vae": Vae, "diffusion": DiffusionModel}


@overload
def load_baseline(model: str | Path, kind: Literal["vae"], *, device: str = "auto") -> Vae: ...


@overload
def load_baseline(model: str | Path, kind: Literal["diffusion"], *, device: str = "auto") -> DiffusionModel: ...


@overload
def load_baseline(model: str | Path, kind: None = None, *, device: str = "auto") -> Vae | DiffusionModel: ...


def load_baseline(model: str | Path, kind: str | None = None, *, device: str = "auto") -> Vae | DiffusionModel:
    """Load a baseline.

    Args:
        model: a model file, or a run folder.
        kind: "vae" or "diffusion"; None: whichever it is.
        device: auto, cpu, cuda, cuda:1, mps.

    Raises:
        UsageError: no such model or kind, or it is no such baseline.
        FileError: it cannot be read.
    """
    if kind is not None:
        check_choice(kind, WRAPPERS, "kind")
    found = zoo.find_model(str(model), load_settings())
    is_file = found.path.is_file()
    architecture = str(weights.read_header(found.path).get("architecture")) if is_file else weights.ARCHITECTURE
    wanted = kind or (architecture if architecture in weights.BASELINES else " or ".join(weights.BASELINES))
    if not is_file:
        raise UsageError(f"{found.path} holds a {architecture}; a {wanted} is needed here.", "Give another model.")
    package = weights.read_package(found.path, wanted, raw=False)
    with torch.device("meta"):
        network = kinds.build(package.recipe.model)
    weights.fill(network, package.weights)
    where = choose_device(device)
    return WRAPPERS[wanted](network, package.header, name=found.name, device=where, file=found.path)

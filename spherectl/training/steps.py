"""One step of each kind of model: what is drawn for it, and its loss, as a module that DDP and FSDP can wrap.

Letters: B global batch, b images of a micro-batch, N tokens, d token channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from spherectl.model import diffusion, objective, vae
from spherectl.model.vit import Trunk
from spherectl.recipe import LossSpec, Recipe
from spherectl.training.monitor import latent_norm
from spherectl.training.perceptual import PerceptualDistance

DrawsOf = TypeVar("DrawsOf")


class Step(nn.Module):
    """The objective of a micro-batch.

    Args:
        model: the networks that are trained.
        recipe: resolved; gives the noise and the weights of the losses.
        perceptual: the frozen distance, or None.

    Attributes:
        parts: names of the numbers that a step tells, the loss first.
    """

    parts: tuple[str, ...]

    def __init__(self, model: nn.Module, recipe: Recipe, perceptual: PerceptualDistance | None) -> None:
        super().__init__()
        self.model: Any = model
        self.recipe = recipe
        self._frozen = (perceptual,)  # in a tuple, so that it is no part of what is wrapped, sharded or sent around

    def _distance(self, loss: LossSpec) -> PerceptualDistance | None:
        """The frozen distance as the loss weighs its parts, or None."""
        perceptual = self._frozen[0]
        return None if perceptual is None else perceptual.with_pooled(loss.pooled)

    @property
    def trunks(self) -> list[Trunk]:
        """The networks of the model."""
        return [child for child in self.model.children() if isinstance(child, Trunk)]

    def draws(self, labels: Tensor, images_seen: int, part: tuple[int, int], device: torch.device) -> Any:
        """Everything random for images `part` of the batch that begins at image `images_seen`.

        Args:
            labels: (b,) of these images.
            images_seen: before the batch, over all processes.
            part: first image of the batch to draw for, and the one after the last.
            device: where it is needed.
        """
        raise NotImplementedError

    def forward(self, images: Tensor, draws: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """Loss, parts and latents of (b, 3, H, W) images in [0, 1].

        Returns:
            The scalar to differentiate; `parts` without gradient; latents (b, N, d), or None where there are none.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Drawn(Generic[DrawsOf]):
    """What a step needs beside the images: all that is random, and the loss as its schedule has it by then."""

    random: DrawsOf
    loss: LossSpec


class SphereStep(Step):
    """The Sphere Encoder's step; latents are those before f."""

    def __init__(self, model: nn.Module, recipe: Recipe, perceptual: PerceptualDistance | None) -> None:
        super().__init__(model, recipe, perceptual)
        parts = ["loss", "loss_rec", "loss_rec_perc", "loss_con", "loss_con_perc", "loss_lat"]
        if recipe.loss.centred:  # ours: where it is off, nothing speaks of it
            parts.append("loss_centre")
        self.parts = (*parts, "latent_norm")

    def draws(
        self, labels: Tensor, images_seen: int, part: tuple[int, int], device: torch.device
    ) -> Drawn[objective.TrainingNoise]:
        """As `Step.draws`, and the weights at that time."""
        recipe, spec = self.recipe, self.recipe.model
        drawn = objective.training_noise(
            recipe.run.seed,
            images_seen,
            labels if spec.classes else None,
            batch=recipe.run.batch_size,
            part=part,
            latent_shape=(spec.tokens, spec.channels_per_token),
            hard_ratio=recipe.noise.hard_ratio,
            num_classes=spec.classes,
            hard_probability=recipe.noise.hard_case_probability,
            hard_cases=recipe.noise.hard_cases,
            label_dropout=recipe.loss.label_dropout,
            device=device,
        )
        return Drawn(drawn, recipe.loss.after(images_seen))

    def forward(self, images: Tensor, draws: Drawn[objective.TrainingNoise]) -> tuple[Tensor, Tensor, Tensor]:
        """As `Step.forward`."""
        loss = draws.loss
        losses = objective.objective(
            self.model.encoder,
            self.model.decoder,
            images,
            draws.random,
            sigma_max=self.recipe.noise.sigma_max,
            weights=objective.LossWeights(
                loss.rec, loss.rec_perceptual, loss.con, loss.con_perceptual, loss.latent, loss.centre
            ),
            perceptual=self._distance(loss),
        )
        parts = [losses.total, losses.rec, losses.rec_perceptual, losses.con, losses.con_perceptual, losses.latent]
        if "loss_centre" in self.parts:
            parts.append(losses.centre)
        return losses.total, _told(*parts, latent_norm(losses.z_clean)), losses.z_clean


class VaeStep(Step):
    """A VAE's step; its latents are the means of the posteriors."""

    parts = ("loss", "loss_rec", "loss_rec_perc", "loss_kl", "latent_norm")

    def draws(
        self, labels: Tensor, images_seen: int, part: tuple[int, int], device: torch.device
    ) -> Drawn[vae.VaeDraws]:
        """As `Step.draws`."""
        spec = self.recipe.model
        numbers = _numbers(images_seen, part, device)
        drawn = vae.draw(
            self.recipe.run.seed,
            numbers,
            labels if spec.classes else None,
            latent_shape=(spec.tokens, spec.channels_per_token),
            num_classes=spec.classes,
            label_dropout=self.recipe.loss.label_dropout,
        )
        return Drawn(_moved(drawn, device), self.recipe.loss.after(images_seen))

    def forward(self, images: Tensor, draws: Drawn[vae.VaeDraws]) -> tuple[Tensor, Tensor, Tensor]:
        """As `Step.forward`."""
        loss = draws.loss
        losses = vae.objective(
            self.model.encoder,
            self.model.decoder,
            images,
            draws.random,
            weights=vae.VaeWeights(loss.rec, loss.rec_perceptual, loss.kl),
            perceptual=self._distance(loss),
        )
        parts = (losses.total, losses.rec, losses.rec_perceptual, losses.kl, latent_norm(losses.mean))
        return losses.total, _told(*parts), losses.mean


class DiffusionStep(Step):
    """A diffusion model's step, which has no latents.

    Raises:
        UsageError: diffusers is not installed.
    """

    parts = ("loss",)

    def __init__(self, model: nn.Module, recipe: Recipe, perceptual: PerceptualDistance | None) -> None:
        super().__init__(model, recipe, perceptual)
        self._schedule = diffusion.noising()

    def draws(
        self, labels: Tensor, images_seen: int, part: tuple[int, int], device: torch.device
    ) -> diffusion.DiffusionDraws:
        """As `Step.draws`."""
        spec = self.recipe.model
        numbers = _numbers(images_seen, part, device)
        drawn = diffusion.draw(
            self.recipe.run.seed,
            numbers,
            labels if spec.classes else None,
            image_size=spec.image_size,
            num_classes=spec.classes,
            label_dropout=self.recipe.loss.label_dropout,
            grey=self.recipe.data.channels == "grey",
        )
        return _moved(drawn, device)

    def forward(self, images: Tensor, draws: diffusion.DiffusionDraws) -> tuple[Tensor, Tensor, None]:
        """As `Step.forward`."""
        loss = diffusion.objective(self.model.denoiser, images, draws, self._schedule)
        return loss, _told(loss), None


def _told(*parts: Tensor) -> Tensor:
    """Numbers without gradient, in the dtype of the first."""
    return torch.stack([part.detach().to(parts[0].dtype) for part in parts])


def _numbers(images_seen: int, part: tuple[int, int], device: torch.device) -> Tensor:
    """(b,) numbers of a batch's images in the training, where float64 is."""
    source = "cpu" if device.type == "mps" else device
    return torch.arange(images_seen + part[0], images_seen + part[1], device=source)


def _moved(draws: DrawsOf, device: torch.device) -> DrawsOf:
    """TrainingNoise with all their tensors on a device."""
    tensors: dict[str, Tensor | None] = vars(draws)
    moved = {name: None if tensor is None else tensor.to(device) for name, tensor in tensors.items()}
    return type(draws)(**moved)

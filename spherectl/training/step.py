"""What one training step is: two functions, one for everything random in it and one for its loss.

`sphere_step` is the Sphere Encoder's. Networks and losses of your own go through the same loop (docs/own-networks.md).

Letters: B global batch, b images of a micro-batch, N tokens, d token channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spherectl.model import objective
from spherectl.recipe import LossSpec, Recipe
from spherectl.training.monitor import latent_norm
from spherectl.training.perceptual import PerceptualDistance

# Entries of what a loss returns that mean more than a number in the metrics.
LOSS, LATENTS = "loss", "latents"


class Part(NamedTuple):
    """Which images of the training a micro-batch holds.

    Attributes:
        images_seen: before the batch, over all processes.
        start: the micro-batch's first image in the batch.
        stop: the image after its last.
        device: where it is computed.

    >>> import torch
    >>> from spherectl.training import Part
    >>> Part(64, 4, 8, torch.device("cpu")).numbers
    tensor([68, 69, 70, 71])
    """

    images_seen: int
    start: int
    stop: int
    device: torch.device

    @property
    def numbers(self) -> Tensor:
        """(b,) int64: how many images the training saw before each. What is drawn from these is the same on resume.

        On the part's device, where float64 is; for MPS on the CPU.
        """
        source = "cpu" if self.device.type == "mps" else self.device
        return torch.arange(self.images_seen + self.start, self.images_seen + self.stop, device=source)


@dataclass(frozen=True)
class Step:
    """One training step, as two functions.

    Attributes:
        noise: of labels (b,) and a `Part` draws everything random, as whatever `loss` takes. It may only depend on the
            seed and on the part, so that a run that was killed goes on exactly.
        loss: of the networks (an nn.Module), images (b, 3, H, W) in [0, 1] and that noise gives scalars by name. "loss"
            is differentiated. Every scalar becomes a column of metrics.jsonl, and has to be a mean over the images. An
            entry "latents" (b, ...) is no scalar: its effective rank becomes a column.

    >>> import torch
    >>> from spherectl.training import Step
    >>> def loss(networks, images, noise):
    ...     return {"loss": torch.nn.functional.mse_loss(networks(images), images)}
    >>> step = Step(lambda labels, part: None, loss)
    >>> step.loss(torch.nn.Identity(), torch.rand(2, 3, 8, 8), None)["loss"]
    tensor(0.)
    """

    noise: Callable[[Tensor, Part], Any]
    loss: Callable[[Any, Tensor, Any], dict[str, Tensor]]


def sphere_step(recipe: Recipe, perceptual: PerceptualDistance | None) -> Step:
    """The Sphere Encoder's step (section 4 of the method). Latents are those before f.

    Args:
        recipe: resolved; gives the noise and the weights of the losses.
        perceptual: the frozen distance P, or None.
    """
    spec = recipe.model

    def noise(labels: Tensor, part: Part) -> tuple[objective.TrainingNoise, LossSpec]:
        drawn = objective.training_noise(
            recipe.run.seed,
            part.images_seen,
            labels if spec.classes else None,
            batch=recipe.run.batch_size,
            part=(part.start, part.stop),
            latent_shape=(spec.tokens, spec.channels_per_token),
            hard_ratio=recipe.noise.hard_ratio,
            num_classes=spec.classes,
            hard_probability=recipe.noise.hard_case_probability,
            hard_cases=recipe.noise.hard_cases,
            label_dropout=recipe.loss.label_dropout,
            device=part.device,
        )
        return drawn, recipe.loss.after(part.images_seen)

    def loss(networks: Any, images: Tensor, noise: tuple[objective.TrainingNoise, LossSpec]) -> dict[str, Tensor]:
        drawn, weights = noise
        found = objective.objective(
            networks.encoder,
            networks.decoder,
            images,
            drawn,
            sigma_max=recipe.noise.sigma_max,
            weights=objective.LossWeights(
                weights.rec, weights.rec_perceptual, weights.con, weights.con_perceptual, weights.latent, weights.centre
            ),
            perceptual=with_pooled(perceptual, weights),
        )
        losses = {
            LOSS: found.total,
            "loss_rec": found.rec,
            "loss_rec_perc": found.rec_perceptual,
            "loss_con": found.con,
            "loss_con_perc": found.con_perceptual,
            "loss_lat": found.latent,
        }
        if recipe.loss.centred:  # ours: where it is off, nothing speaks of it
            losses["loss_centre"] = found.centre
        return losses | {"latent_norm": latent_norm(found.z_clean), LATENTS: found.z_clean}

    return Step(noise, loss)


def with_pooled(perceptual: PerceptualDistance | None, loss: LossSpec) -> PerceptualDistance | None:
    """The frozen distance as a loss weighs its parts, or None."""
    return None if perceptual is None else perceptual.with_pooled(loss.pooled)


class LossOf(nn.Module):
    """A step's loss as a module that holds the networks, which is what DDP and FSDP wrap."""

    def __init__(self, networks: nn.Module, step: Step) -> None:
        super().__init__()
        self.networks, self._loss = networks, step.loss

    def forward(self, images: Tensor, noise: Any) -> dict[str, Tensor]:
        """`Step.loss` of these networks."""
        return self._loss(self.networks, images, noise)


def numbers_of(losses: dict[str, Tensor]) -> tuple[list[str], Tensor]:
    """The names of a loss's scalars, and the scalars without gradient, in the dtype of the first: (K,)."""
    scalars = {name: value.detach() for name, value in losses.items() if name != LATENTS}
    dtype = losses[LOSS].dtype
    return list(scalars), torch.stack([value.to(dtype) for value in scalars.values()])

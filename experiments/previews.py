"""Images that a VAE and a diffusion model show of their training."""

from __future__ import annotations

import torch
from torch import Tensor

from experiments.baselines import DiffusionModel, Vae
from spherectl.data.datasets import ImageSet
from spherectl.images import grid
from spherectl.training.previews import SEED, chosen, columns

DIFFUSION_STEPS = (10, 50)


def of_vae(model: Vae, dataset: ImageSet) -> dict[str, Tensor]:
    """Two rows of samples of a VAE's prior; images, and what the means of their posteriors decode to.

    Returns:
        "samples" and "reconstructions", each (3, H, W) in [0, 1].
    """
    images, labels = chosen(dataset)
    across = columns(model.recipe.model.image_size)
    samples = model.sample(torch.arange(2 * across), model.spread(2 * across), seed=SEED)
    mean, _ = model.posterior(images, labels)
    rows = torch.cat([images, model.decode(mean, labels).cpu()])
    return {"samples": grid(samples, across), "reconstructions": grid(rows, len(images))}


def of_diffusion(model: DiffusionModel, dataset: ImageSet) -> dict[str, Tensor]:  # noqa: ARG001 - as `of_vae`
    """A row of 10-step and a row of 50-step samples of a diffusion model, which has nothing to reconstruct."""
    across = columns(model.recipe.model.image_size)
    numbers = torch.arange(across)
    rows = [model.sample(numbers, model.spread(across), steps=steps, seed=SEED) for steps in DIFFUSION_STEPS]
    return {"samples": grid(torch.cat(rows), across)}

"""Samples of any kind of model, a row for each number of steps: the same noise above and below."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spherectl import api
from spherectl.baselines import DiffusionModel, Vae
from spherectl.errors import UsageError
from spherectl.images import grid
from spherectl.model.diffusion import Solver
from spherectl.training.previews import DIFFUSION_STEPS, SAMPLE_STEPS


def usual_steps(model: api.Model | Vae | DiffusionModel) -> Sequence[int]:
    """The numbers of steps that a training's previews of such a model have."""
    return DIFFUSION_STEPS if isinstance(model, DiffusionModel) else SAMPLE_STEPS


def sample_rows(
    model: api.Model | Vae | DiffusionModel,
    steps: Sequence[int],
    count: int,
    *,
    seed: int = 0,
    solver: Solver = "ddim",
    guidance: float | None = None,
) -> Tensor:
    """A grid of samples, classes in turn.

    Args:
        model: a Sphere Encoder, or a baseline. A VAE has no steps: it has one row.
        steps: a row each.
        count: samples in a row.
        seed: of all rows.
        solver: of a diffusion model.
        guidance: of a Sphere Encoder; None: the model's own. Baselines are drawn without.

    Returns:
        uint8 (3, H, W).

    Raises:
        UsageError: a number of steps out of range, or guidance of a model that has none.
    """
    if guidance not in (None, 1.0) and not isinstance(model, api.Model):
        raise UsageError(f"{model.name} is a baseline, which is drawn without guidance.", "Leave --guidance out.")
    numbers = torch.arange(count)
    if isinstance(model, Vae):
        rows = [model.draw(numbers, model.spread(count), seed=seed)]
    elif isinstance(model, DiffusionModel):
        rows = [model.draw(numbers, model.spread(count), steps=one, seed=seed, solver=solver) for one in steps]
    else:
        asked = [api.generate(model, count, steps=one, seed=seed, guidance=guidance) for one in steps]
        rows = [torch.cat([part.images for part in parts]) for parts in asked]
    return grid(torch.cat(rows), columns=count)

"""Images of a training: samples of fixed noise, and reconstructions of the same few images at growing noise.

What they draw is a function of the model alone. Their noise is that of sampling, with a seed of their own, and a draw
takes nothing from any other (section 11 of the method's description).

Letters: B images, S their side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spherectl import api
from spherectl.data.datasets import ImageSet
from spherectl.data.transforms import to_float
from spherectl.errors import FileError
from spherectl.images import grid
from spherectl.model import seeding
from spherectl.model.geometry import perturb, strength

SAMPLE_STEPS = (1, 4)
SEED = 0
SMALL_PX, SMALL_COLUMNS, LARGE_COLUMNS = 64, 10, 4


def grids(model: api.Model, dataset: ImageSet) -> dict[str, Tensor]:
    """What a training shows of itself, each an image (3, H, W) in [0, 1].

    Returns:
        "samples": a row of one-step, a row of four-step samples. "reconstructions": images of the set, and what
        becomes of them at no noise, at half the largest usual angle, and at that angle.
    """
    images, labels = chosen(dataset)
    rows = reconstructions(model, images.to(model.device), labels.to(model.device) if model.num_classes else None)
    return {
        "samples": grid(samples(model), columns(model.recipe.model.image_size)),
        "reconstructions": grid(rows, len(images)),
    }


def columns(image_size: int) -> int:
    """Images side by side in a preview of S = image_size."""
    return SMALL_COLUMNS if image_size <= SMALL_PX else LARGE_COLUMNS


def samples(model: api.Model) -> Tensor:
    """A row of one-step samples, a row of four-step samples.

    Returns:
        (2 columns, 3, S, S) float32 in [0, 1] on the CPU, for `images.grid` of `columns`.
    """
    count = columns(model.recipe.model.image_size)
    rows = [api.generate(model, count, steps=steps, seed=SEED, batch=count) for steps in SAMPLE_STEPS]
    return torch.cat([drawn.images for row in rows for drawn in row])


def chosen(dataset: ImageSet) -> tuple[Tensor, Tensor]:
    """The few images of a set that are shown: evenly spread over its numbers, those that can be read.

    Returns:
        Images (B, 3, S, S) float32 in [0, 1], and their labels (B,).

    Raises:
        FileError: none of them can be read.
    """
    count, total = columns(dataset.image_size), len(dataset)
    if dataset.shard_counts:  # over a network: of one shard alone, which also tells the labels
        images, labels, _ = dataset.read(range(min(count, dataset.shard_counts[0])))
        return to_float(images), labels
    found: dict[int, Tensor] = {}
    failure: FileError | None = None
    for number in sorted({(2 * i + 1) * total // (2 * count) for i in range(count)}):
        try:
            found[number] = dataset[number]
        except FileError as error:  # training says so when it comes to it
            failure = error
    if failure is not None and not found:
        raise failure
    return to_float(torch.stack(list(found.values()))), dataset.labels[list(found)]


# D(f(v + tan(angle) e), y), v = f(E(x, y))
def reconstructions(
    model: api.Model, images: Tensor, labels: Tensor | None = None, angles_deg: Sequence[float] | None = None
) -> Tensor:
    """The images, then a row for each angle: their latents turned by it and decoded.

    Args:
        model: whose networks to use.
        images: (B, 3, S, S) in [0, 1].
        labels: (B,) classes; None: the null class. Without meaning for an unconditional model.
        angles_deg: from 0 to below 90; None: 0, half the largest usual angle of training, and that angle.

    Returns:
        ((1 + angles) B, 3, S, S) float32 in [0, 1] on the CPU, for `images.grid` of B columns.
    """
    if angles_deg is None:
        largest = model.recipe.noise.angle_deg
        angles_deg = (0.0, largest / 2, largest)
    v = model.encode(images, labels)  # (B, N, d)
    numbers = torch.arange(len(images), device=v.device)
    e = seeding.noise(SEED, seeding.ROUND, numbers, model.network.latent_shape)  # (B, N, d)
    rows = [model.decode(perturb(v, strength(angle), e), labels) for angle in angles_deg]  # (B, 3, S, S) each
    return torch.cat([images.to(rows[0]), *rows]).cpu()

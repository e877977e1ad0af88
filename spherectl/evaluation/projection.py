"""Points of several kinds beside each other, for the figure of uniformity, and the numbers beside it.

The figure projects points to three dimensions by one random Gaussian matrix and divides them by their lengths. Uniform
points stay uniform by that, so a pull or a cluster in the image is one of the points; but three random directions of
hundreds show little of a lost dimension, which the numbers do.

Letters: n points, L entries of a point, N tokens, d token channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spherectl import api
from spherectl.data.datasets import ImageSet
from spherectl.data.transforms import to_float
from spherectl.evaluation.autoencoders import Autoencoder, SphereAutoencoder
from spherectl.evaluation.directions import normalise
from spherectl.evaluation.embeddings import BATCH, Part, real_draw
from spherectl.evaluation.uniformity import UniformityByClass, uniformity_by_class
from spherectl.model import seeding, sphere
from spherectl.model.formats import weights
from spherectl.training import checkpoint

DRAWS = 99  # p-values are multiples of 0.01
POINTS_OF_TRAINING = 3


@dataclass(frozen=True, eq=False)
class Cloud:
    """One panel.

    Attributes:
        title: what the points are.
        projected: (n, 3) of length 1; None where there are no such points.
        labels: (n,) classes.
        measured: the numbers; None where there are no points.
    """

    title: str
    projected: Tensor | None
    labels: Tensor
    measured: UniformityByClass | None


# p = G^T x / |G^T x|, G (L, 3) of independent normals
def project(points: Tensor, seed: int) -> Tensor:
    """Points (n, ...) through one random Gaussian matrix onto the sphere in three dimensions: (n, 3)."""
    flat = points.flatten(1).float()  # (n, L)
    matrix = seeding.normal(seed, seeding.PROJECTION, torch.arange(flat.shape[1]), 3).float()  # (L, 3)
    return normalise(flat @ matrix)


def clouds(
    model: api.Model,
    vae: Autoencoder | None,
    dataset: ImageSet,
    *,
    count: int = 1000,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Cloud]:
    """The four panels: this encoder, truly uniform points, the VAE's means, centred pixels.

    Args:
        model: whose latents to look at.
        vae: whose means to compare with; None leaves that panel empty.
        images: real ones; `count` at most, drawn evenly over the classes, are in every panel.
        count: n.
        draws: sets of uniform points that the measures are compared with.
        seed: of all that is drawn.
    """
    draw = real_draw(dataset, count, seed)
    labels = dataset.labels[draw.indices]
    own = latents(SphereAutoencoder(model), draw, labels)  # (n, L)
    uniform = seeding.normal(seed, seeding.PROJECTION, torch.arange(len(draw)), own.shape[1], 1).float()
    means = None if vae is None else latents(vae, draw, labels)
    pixels = to_float(draw.gather(torch.arange(len(draw)))).flatten(1)
    sets: list[tuple[str, Tensor | None]] = [
        (f"latents of {model.name}", own),
        ("truly uniform points", uniform),
        ("means of a VAE: none given" if vae is None else f"means of {vae.name}", means),
        ("pixels less their mean", pixels - pixels.mean(0)),
    ]
    names = dataset.class_names or ("all",)
    return [
        Cloud(title, None, labels, None)
        if points is None
        else Cloud(
            title,
            project(points, seed),
            labels,
            uniformity_by_class(points, labels, names, draws=draws, seed=seed, max_points=count),
        )
        for title, points in sets
    ]


def latents(model: Autoencoder, draw: Part, labels: Tensor) -> Tensor:
    """Where a model puts images, by the mean of their posteriors: (n, L)."""
    return torch.cat([
        model.posterior(to_float(draw.gather(numbers)), labels[numbers])[0].flatten(1)
        for numbers in torch.arange(len(draw)).split(BATCH)
    ])  # fmt: skip


def through_training(
    run: Path, model: api.Model, dataset: ImageSet, *, count: int = 1000, draws: int = DRAWS, seed: int = 0
) -> list[tuple[int, UniformityByClass]]:
    """The numbers at up to three points of a training, by images seen: of the averaged weights in its checkpoints.

    Args:
        run: the folder.
        model: of that run, at its end.
        images, count, draws, seed: as for `clouds`.
    """
    draw = real_draw(dataset, count, seed)
    labels = dataset.labels[draw.indices]
    found = []
    for path in spread(checkpoint.checkpoints(run / "checkpoints")):
        with torch.device("meta"):
            network = sphere.build(model.recipe.model)
        weights.fill(network, {name: one.float() for name, one in checkpoint.read_part(path, "ema").items()})
        then = api.Model(network, model.header, name=path.name, device=model.device)
        points = latents(SphereAutoencoder(then), draw, labels)
        names = dataset.class_names or ("all",)
        measured = uniformity_by_class(points, labels, names, draws=draws, seed=seed, max_points=count)
        found.append((int(path.name), measured))
    return found


def spread(checkpoints: Sequence[Path]) -> list[Path]:
    """Those nearest to a third, two thirds and all of the images that the last one has seen, each once."""
    if not checkpoints:
        return []
    last = int(checkpoints[-1].name)
    wanted = [last * part / POINTS_OF_TRAINING for part in range(1, POINTS_OF_TRAINING + 1)]
    chosen = [min(checkpoints, key=lambda path: abs(int(path.name) - images)) for images in wanted]
    return sorted(set(chosen))

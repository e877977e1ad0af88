"""The posterior hole: whether what a model decodes well is what its prior, or a Gaussian like its latents, gives.

Four sets of images of one model, with the same classes in the same order, each scored alike:

- input: real ones;
- reconstruction: their means decoded;
- prior: points of N(0, I), on a sphere the uniform distribution;
- fitted: points of the Gaussian with the mean and the covariance of many images' latents (of their posteriors), on a
  sphere brought to it.

A decoder that is good on the second and poor on the third has holes where its prior lies. If the fourth is as poor,
they are no matter of place and spread alone.

Letters: n images, m images fitted to, B batch, L entries of a latent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from spherectl.data.datasets import ImageSet
from spherectl.data.transforms import to_float, to_uint8
from spherectl.evaluation import bootstrap, replicates
from spherectl.evaluation.autoencoders import Autoencoder
from spherectl.evaluation.embeddings import BATCH, Features, Held, Part, extract, real_draw
from spherectl.evaluation.extractors import Extractor
from spherectl.evaluation.fidelity import score
from spherectl.evaluation.reference import Reference
from spherectl.model import seeding
from spherectl.progress import Progress

ColumnName = Literal["input", "reconstruction", "prior", "fitted"]
COLUMNS: tuple[ColumnName, ...] = get_args(ColumnName)
FITTED_TO = 5_000  # images, at most


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian with the first two moments of a mixture of posteriors.

    Its covariance, X^T X / (m - 1) + diag(variance), is never written down: L may be larger than memory allows.

    Attributes:
        mean: (L,) of the posteriors' means.
        centred: X (m, L), the means less theirs.
        variance: (L,) mean of the posteriors' variances.
    """

    mean: Tensor
    centred: Tensor
    variance: Tensor

    # z = mean + X^T g / sqrt(m - 1) + sqrt(variance) e, g and e normal
    def draw(self, indices: Tensor, seed: int) -> Tensor:
        """Points (B, L) by their numbers (B,)."""
        m, width = self.centred.shape
        g = seeding.normal(seed, seeding.FITTED, indices, m).float()  # (B, m)
        e = seeding.normal(seed, seeding.FITTED, indices, width, 1).float()  # (B, L)
        return self.mean + g @ self.centred / math.sqrt(m - 1) + self.variance.sqrt() * e


@dataclass(frozen=True, eq=False)
class Column:
    """One set of images.

    Attributes:
        name: which.
        pixels: uint8 (n, 3, H, W).
        frechet_distance: to the reference.
        interval: of it, 95%; None without resamples.
    """

    name: ColumnName
    pixels: Tensor
    frechet_distance: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class Hole:
    """The four columns of one model."""

    model: str
    columns: tuple[Column, ...]

    def column(self, name: ColumnName) -> Column:
        """One of them."""
        return self.columns[COLUMNS.index(name)]


def fit(model: Autoencoder, images: ImageSet, max_images: int = FITTED_TO, seed: int = 0) -> Gaussian:
    """Fit a Gaussian to the latents of images, drawn evenly over the classes where there are more than `max_images`."""
    draw = real_draw(images, max_images, seed)
    means, variances = [], []
    for numbers in torch.arange(len(draw)).split(BATCH):
        mean, variance = model.posterior(to_float(draw.gather(numbers)), images.labels[draw.indices[numbers]])
        means.append(mean.flatten(1).float())
        variances.append(variance.flatten(1).float())
    together = torch.cat(means)  # (m, L)
    centre = together.mean(0)
    return Gaussian(centre, together - centre, torch.cat(variances).mean(0))


def posterior_hole(
    models: Sequence[Autoencoder],
    images: ImageSet,
    reference: Reference,
    extractor: Extractor,
    *,
    count: int,
    seed: int = 0,
    resamples: int = 200,
    progress: Progress | None = None,
) -> list[Hole]:
    """Sample and score the four columns of each model.

    Args:
        models: all are given the same images, classes, and numbers of noise.
        images: real ones, of which the inputs are drawn evenly over the classes, and to which the Gaussian is fitted;
            the reference should hold others.
        reference: what the columns are compared with.
        extractor: the network that scores.
        count: n, at most as many as there are images.
        seed: of all that is random.
        resamples: of the bootstrap; 0: no intervals.
        progress: called with columns done and columns in all.

    Raises:
        UsageError: fewer than two images.
    """
    inputs = real_draw(images, count, seed)
    total, found = 1 + 3 * len(models), []

    def told(done: int) -> None:
        if progress is not None:
            progress(done, total)

    real = scored("input", inputs.gather(torch.arange(len(inputs))), reference, extractor, resamples, seed)
    told(1)
    for number, model in enumerate(models):
        columns = [real]
        for name, pixels in generated(model, images, inputs, seed).items():
            columns.append(scored(name, pixels, reference, extractor, resamples, seed))
            told(3 * number + len(columns))
        found.append(Hole(model.name, tuple(columns)))
    return found


def generated(model: Autoencoder, images: ImageSet, inputs: Part, seed: int) -> dict[ColumnName, Tensor]:
    """Reconstructions of images, and as many samples of the prior and of the fitted Gaussian: uint8 (n, 3, H, W)."""
    gaussian = fit(model, images, seed=seed)
    parts: dict[ColumnName, list[Tensor]] = {"reconstruction": [], "prior": [], "fitted": []}
    for numbers in torch.arange(len(inputs)).split(BATCH):
        labels = images.labels[inputs.indices[numbers]]
        mean, _ = model.posterior(to_float(inputs.gather(numbers)), labels)
        prior = seeding.noise(seed, seeding.INITIAL, numbers, model.latent_shape)
        fitted = gaussian.draw(numbers, seed).reshape(mean.shape)
        for name, latents in (
            ("reconstruction", mean),
            ("prior", model.place(prior)),
            ("fitted", model.place(fitted)),
        ):
            parts[name].append(to_uint8(model.decode(latents, labels)))  # type: ignore[index]
    return {name: torch.cat(some) for name, some in parts.items()}


def scored(
    name: ColumnName, pixels: Tensor, reference: Reference, extractor: Extractor, resamples: int, seed: int
) -> Column:
    """One column with its Frechet distance."""
    features = extract(Held(pixels), extractor)
    assert features is not None  # one process alone
    distance = score(features, reference, extractor, metrics=["fid"]).frechet_distance
    assert distance is not None
    interval = None
    if resamples:
        interval = bootstrap.interval(distance, frechet_replicates(features, reference, resamples, seed))
    return Column(name, pixels, distance, interval)


def frechet_replicates(features: Features, reference: Reference, resamples: int, seed: int) -> Tensor:
    """(R,) distances of resampled images."""
    m = bootstrap.multiplicities(len(features), resamples, seed)
    mean, covariance = torch.from_numpy(reference.mean), torch.from_numpy(reference.covariance)
    return replicates.frechet_replicates(features.embedding, mean, covariance, m)


def rows(holes: Sequence[Hole]) -> list[dict[str, Any]]:
    """The numbers alone, one row a model and column, JSON-able."""
    return [
        {
            "model": hole.model,
            "images": column.name,
            "count": len(column.pixels),
            "frechet_distance": column.frechet_distance,
            "interval": list(column.interval) if column.interval else None,
        }
        for hole in holes
        for column in hole.columns
    ]

"""Scores that a small feature network gives: the Frechet distance of its embeddings, and the accuracy of its labels.

A model trained against a network's features scores well by that network, whatever its pictures look like. So every
function here that scores a model takes the model's recipe, and refuses the network that the recipe names as its loss.

Letters: B batch, D width of the embedding, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from spherectl.data.datasets import PictureSet
from spherectl.data.transforms import to_float, to_uint8
from spherectl.errors import UsageError
from spherectl.features.networks import FeatureNetwork
from spherectl.features.store import fingerprint, load_feature_network
from spherectl.model import seeding
from spherectl.recipe import Recipe


class FeatureStatistics:
    """Mean and covariance of feature vectors that come in batches, in float64.

    Batches are merged by the update of Chan, Golub and LeVeque (1979), which does not lose digits to a large mean.

    Attributes:
        count: vectors so far.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self._mean = torch.zeros(width, dtype=torch.float64)
        self._scatter = torch.zeros(width, width, dtype=torch.float64)  # sum of (x - mean)(x - mean)^T

    def add(self, features: Tensor) -> None:
        """Take in one batch (B, D)."""
        if not len(features):
            return
        batch = features.detach().to("cpu", torch.float64)
        mean = batch.mean(0)  # (D,)
        centred = batch - mean  # (B, D)
        delta, total = mean - self._mean, self.count + len(batch)
        self._scatter += centred.T @ centred + torch.outer(delta, delta) * (self.count * len(batch) / total)
        self._mean += delta * (len(batch) / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """(D,) float64."""
        return self._mean.clone()

    @property
    def covariance(self) -> Tensor:
        """(D, D) float64, over count - 1.

        Raises:
            UsageError: of fewer than two vectors.
        """
        if self.count < 2:
            raise UsageError(f"A Frechet distance needs at least 2 images on each side; there were {self.count}.")
        return self._scatter / (self.count - 1)


@dataclasses.dataclass(frozen=True)
class Scores:
    """What `score_samples` measures.

    Attributes:
        frechet: Frechet distance to the reference, in squared units of the embedding; lower is better.
        accuracy: share of images the network gives their own label, 0 to 1; None where there are no labels.
        count: images scored.
    """

    frechet: float
    accuracy: float | None
    count: int


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of rows of `logits` (B, K) whose largest entry is at `labels` (B,), 0 to 1."""
    return float((logits.argmax(1) == labels).double().mean())


def frechet_distance(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    """Squared Frechet (2-Wasserstein) distance of two Gaussians (Dowson and Landau, 1982), in float64.

    |mean_a - mean_b|^2 + tr A + tr B - 2 tr (A^1/2 B A^1/2)^1/2. The last trace is the sum of the singular values of
    A^1/2 B^1/2, which needs symmetric square roots alone and no root of the tiny eigenvalues of a product.

    Args:
        mean_a, mean_b: (D,).
        covariance_a, covariance_b: (D, D), symmetric, positive semi-definite.
    """
    a, b = covariance_a.double(), covariance_b.double()
    shift = (mean_a.double() - mean_b.double()).square().sum()
    cross = torch.linalg.svdvals(_square_root(a) @ _square_root(b)).sum()
    return max(0.0, float(shift + a.trace() + b.trace() - 2 * cross))


def check_independent(recipe: Recipe, network: str | Path | nn.Module) -> None:
    """Refuse to score a model with the network it was trained against, by name or as a copy of the same weights.

    Args:
        recipe: of the model to be scored.
        network: the network that would score it: a zoo name, a path, or the module itself.

    Raises:
        UsageError: it is the one that the recipe's `loss.perceptual` names, or that one is not here to compare with.
    """
    name = recipe.loss.features
    if not name:
        return
    own = fingerprint(load_feature_network(name))  # not here: nothing can vouch for the score, so the error stands
    scorer = network if isinstance(network, nn.Module) else load_feature_network(network)
    if fingerprint(scorer) == own:
        raise UsageError(
            f"The model {recipe.name} was trained against the features of {name} (loss.perceptual), so a score by that "
            "network would flatter it.",
            "Score it with another network: `spherectl zoo ls` lists them.",
        )


@torch.no_grad()
def reference_statistics(
    network: nn.Module, pictures: PictureSet, indices: Tensor | None = None, batch_size: int = 500
) -> FeatureStatistics:
    """Embeddings of a data set's pictures, or of those at `indices`."""
    chosen = torch.arange(len(pictures)) if indices is None else indices
    statistics: FeatureStatistics | None = None
    for some in chosen.split(batch_size):
        features = cast("FeatureNetwork", network).embed(to_float(pictures.gather(some)).to(_device(network)))  # (B, D)
        statistics = statistics or FeatureStatistics(features.shape[1])
        statistics.add(features)
    if statistics is None:
        raise UsageError("A Frechet distance needs at least 2 images on each side; the reference has none.")
    return statistics


@torch.no_grad()
def score_samples(
    batches: Iterable[tuple[Tensor, Tensor | None]],
    network: nn.Module,
    reference: FeatureStatistics,
    *,
    recipe: Recipe,
) -> Scores:
    """Score images that a model drew.

    Images are rounded to 8 bits first, as the reference's are and as a PNG would hold them.

    Args:
        batches: pairs of images, float (B, 3, H, W) in [0, 1], and labels, int64 (B,) or None.
        network: the scorer.
        reference: `reference_statistics` of the same network.
        recipe: of the model that drew them.

    Raises:
        UsageError: the recipe names this network as its loss, or there are fewer than two images.
    """
    check_independent(recipe, network)
    statistics = FeatureStatistics(len(reference.mean))
    correct = labelled = 0
    for images, labels in batches:
        rounded = to_float(to_uint8(images)).to(_device(network))
        features = cast("FeatureNetwork", network).embed(rounded)  # (B, D)
        statistics.add(features)
        if labels is not None:
            logits = cast("Tensor", cast("nn.Module", network.head)(features))  # (B, K)
            correct += round(accuracy(logits.cpu(), labels.cpu()) * len(labels))
            labelled += len(labels)
    distance = frechet_distance(statistics.mean, statistics.covariance, reference.mean, reference.covariance)
    return Scores(distance, correct / labelled if labelled else None, statistics.count)


def frechet_floor(
    network: nn.Module, train: PictureSet, reference: FeatureStatistics, count: int = 2000, seed: int = 0
) -> float:
    """Frechet distance of real training images to the reference: what a perfect model of `count` samples would get.

    Args:
        network: the scorer.
        train: the training set; its classes are drawn from evenly, as samples are.
        reference: `reference_statistics` of the test set.
        count: images, at least 2.
        seed: of the draw.
    """
    sample = reference_statistics(network, train, even_draw(train.labels, count, seed))
    return frechet_distance(sample.mean, sample.covariance, reference.mean, reference.covariance)


def even_draw(labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices (count,) of pictures drawn without replacement, as evenly over the classes as `count` allows.

    Raises:
        UsageError: there are not that many pictures.
    """
    if count > len(labels):
        raise UsageError(f"Cannot draw {count} different images from a set of {len(labels)}.")
    order = seeding.permutation(seed, seeding.ORDER, 0, len(labels))  # (n,)
    mine = labels[order]
    turn = torch.zeros_like(mine)  # a picture's place among those of its class
    for label in mine.unique():
        of_class = mine == label
        turn[of_class] = torch.arange(int(of_class.sum()))
    return order[turn.argsort(stable=True)[:count]]


def _square_root(matrix: Tensor) -> Tensor:
    """Symmetric square root of a positive semi-definite matrix (D, D); rounding below 0 counts as 0."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device

"""The short account of a class-conditional model that a model card carries, by a scoring network of the zoo.

The scorer is never the network of the model's own loss. Frechet distances stand beside their floor, the distance of as
many real training images to the same test set, and accuracies beside the scorer's accuracy on real test images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F

from spherectl import api
from spherectl.data.datasets import PictureSet
from spherectl.data.transforms import to_float, to_uint8
from spherectl.errors import UsageError
from spherectl.features.fit import measure_accuracy
from spherectl.features.scores import (
    check_independent,
    frechet_floor,
    reference_statistics,
    score_samples,
)
from spherectl.features.store import load_feature_network

BATCH = 100


@dataclass(frozen=True)
class StepScore:
    """Samples at one number of steps.

    Attributes:
        steps: passes of the decoder.
        accuracy: share of samples that the scorer gives their own class.
        frechet: Frechet distance to the test images.
    """

    steps: int
    accuracy: float
    frechet: float


@dataclass(frozen=True)
class Summary:
    """All numbers of one model.

    Attributes:
        scorer: the network's name.
        count: samples at each number of steps, class-balanced.
        guidance: guidance scale.
        accuracy_real: the scorer's accuracy on the real test images.
        floor: Frechet distance of `count` training images to the test images.
        samples: one entry a number of steps.
        psnr: of reconstructions of the test images with their own classes, in dB, from the mean squared error of each.
        channel_spread: largest difference between channels of a sample, in 255 levels (0 for a perfectly grey model).
    """

    scorer: str
    count: int
    guidance: float
    accuracy_real: float
    floor: float
    samples: tuple[StepScore, ...]
    psnr: float
    channel_spread: int


@torch.no_grad()
def summarise(
    model: api.Model,
    train: PictureSet,
    test: PictureSet,
    *,
    scorer: str,
    steps: tuple[int, ...] = (1, 4),
    count: int = 2000,
    guidance: float = 1.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Score a model.

    Args:
        model: class-conditional, with the classes of the data sets.
        train, test: real pictures at the model's size.
        scorer: a feature network of the zoo.
        steps: numbers of steps to draw at, each with the same noise.
        count: samples at each.
        guidance: guidance scale; 1 is off.
        seed: of the samples.
        progress: called with images done and images in all.

    Raises:
        UsageError: the scorer is the model's own loss, or the classes do not match.
    """
    if model.num_classes != len(test.class_names):
        raise UsageError(
            f"{model.name} has {model.num_classes} classes, {test.name} has {len(test.class_names)}; they must match."
        )
    check_independent(model.recipe, scorer)
    network = load_feature_network(scorer)
    total, done = count * len(steps) + len(test), 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    reference = reference_statistics(network, test)
    samples, spread = [], 0
    for number in steps:
        drawn = []
        for batch in api.generate(model, count, steps=number, guidance=guidance, seed=seed, batch=BATCH):
            pixels = to_uint8(batch.images).int()
            spread = max(spread, int((pixels.amax(1) - pixels.amin(1)).max()))
            drawn.append((batch.images, batch.labels))
            tell(len(pixels))
        scores = score_samples(drawn, network, reference, recipe=model.recipe)
        samples.append(StepScore(number, cast("float", scores.accuracy), scores.frechet))
    return Summary(
        scorer=scorer,
        count=count,
        guidance=guidance,
        accuracy_real=measure_accuracy(network, test),
        floor=frechet_floor(network, train, reference, count),
        samples=tuple(samples),
        psnr=reconstruction_psnr(model, test, tell),
        channel_spread=spread,
    )


# -10 log10 of the mean squared error of an image in [0, 1], averaged over images
@torch.no_grad()
def reconstruction_psnr(model: api.Model, pictures: PictureSet, tell: Callable[[int], None] = lambda _: None) -> float:
    """Mean PSNR in dB of reconstructions with the pictures' own classes."""
    values = []
    for indices in torch.arange(len(pictures)).split(BATCH):
        images = to_float(pictures.gather(indices))
        again = model.reconstruct(images, pictures.labels[indices] if model.num_classes else None).cpu()
        errors = F.mse_loss(again, images, reduction="none").flatten(1).mean(1)
        values.append(-10 * errors.clamp_min(1e-10).log10())
        tell(len(indices))
    return float(torch.cat(values).double().mean())

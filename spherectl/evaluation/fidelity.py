"""How near samples are to real images, by the metrics of `spherectl.evaluation.metrics`.

A Frechet distance is called FID, and a score of logits Inception Score, only where the network is Inception.

Letters: n samples, D width of the embedding, K classes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from spherectl.checks import check_choice
from spherectl.errors import UsageError
from spherectl.evaluation.embeddings import Features, Held, Images, extract
from spherectl.evaluation.extractors import Extractor, open_extractor
from spherectl.evaluation.metrics import METRICS, Measured, Of, chosen, scores_of, unmet
from spherectl.evaluation.reference import Reference, from_features

Quantise = Literal["round", "floor"]


class Valued:
    """Values of scores, each of them an attribute too: None where it was not asked or cannot be had."""

    OF: ClassVar[Of]
    values: dict[str, float]

    def __getattr__(self, name: str) -> float | None:
        """The value of that score."""
        if name not in scores_of(self.OF):
            raise AttributeError(f"{type(self).__name__} has no score or attribute {name!r}.")
        return self.values.get(name)

    def table(self) -> dict[str, Any]:
        """All that is known, values and None for the other scores, JSON-able."""
        known = {name: self.values.get(name) for name in scores_of(self.OF)}
        return {key: value for key, value in vars(self).items() if key != "values"} | known


@dataclass(frozen=True)
class Scores(Valued):
    """The scores of one set of samples, and all that they depend on.

    Attributes:
        features: name of the network.
        reference: what the samples were compared with.
        count: n.
        quantise: how the samples became bytes.
        values: by key; `scores.kid` is `scores.values.get("kid")`, and so on for `frechet_distance`, `kid_deviation`,
            `inception_score`, `inception_score_deviation`, `precision`, `recall` and `accuracy`.
    """

    OF: ClassVar[Of] = "samples"

    features: str
    reference: str
    count: int
    quantise: str
    values: dict[str, float]


def fidelity(
    samples: Tensor | Images,
    reference: Tensor | Images | Reference,
    features: str | Extractor,
    *,
    metrics: Collection[str] = ("fid", "kid", "is", "prc"),
    labels: Tensor | None = None,
) -> Scores:
    """Score images against others.

    Args:
        samples: uint8 (n, 3, H, W), or anything that gives such images by number.
        reference: real images likewise, or what `read_statistics` or `of_images` made of them.
        features: an extractor, or its name as `open_extractor` takes it.
        metrics: what to compute, of the metrics of samples.
        labels: (n,) classes of the samples, for "acc".

    Raises:
        UsageError: too few images, images the network was not made for, or a metric that there is not or that
            cannot be had.

    Example:
        >>> from spherectl.evaluation.fidelity import fidelity
        >>> noise = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
        >>> fidelity(noise, noise, "fashion-scorer", metrics=["kid"]).kid < 1e-6
        True
    """
    known = [name for name, metric in METRICS.items() if metric.of == "samples"]
    for metric in metrics:
        check_choice(metric, known, "metrics")
    extractor = open_extractor(features) if isinstance(features, str) else features
    found = extract(_images(samples), extractor)
    if not isinstance(reference, Reference):
        images = _images(reference)
        real = extract(images, extractor)
        assert real is not None  # one process alone
        size = images.gather(torch.tensor([0])).shape[-1]
        reference = from_features(f"{len(images):,} images", real, extractor.name, size)
    assert found is not None
    if missing := unavailable(metrics, reference, extractor, len(found)):
        raise UsageError(" ".join(missing.values()))
    return score(found, reference, extractor, metrics=metrics, labels=labels)


def score(
    samples: Features,
    reference: Reference,
    extractor: Extractor,
    *,
    metrics: Collection[str],
    labels: Tensor | None = None,
    quantise: str = "none, as given",
) -> Scores:
    """Score features of images.

    Args:
        samples: features of n images.
        reference: what to compare with.
        extractor: the network that both come from.
        metrics: what to compute, all of it available; those of other things than samples are passed over.
        labels: (n,) classes, for "acc".
        quantise: how the images became bytes, for the record.

    Raises:
        UsageError: fewer than two images on a side.
    """
    given, values = Measured(samples, reference, labels), dict[str, float]()
    for metric in chosen(metrics, "samples"):
        assert metric.compute is not None, metric.name
        values |= metric.compute(given)
    return Scores(extractor.name, reference.name, len(samples), quantise, values)


def unavailable(
    metrics: Collection[str], reference: Reference, extractor: Extractor, count: int, met: Collection[str] = ()
) -> dict[str, str]:
    """Which of the metrics cannot be had, each with the reason in a sentence.

    Args:
        metrics: names.
        reference: what samples are compared with.
        extractor: the network that scores.
        count: of samples.
        met: needs of real images that are met.
    """
    met = {*met, *(("real features",) if reference.features is not None else ())}
    met |= {*(("logits",) if extractor.logits else ()), *(("classes",) if extractor.class_names else ())}
    least = min(count, len(reference.features) if reference.features is not None else count)
    missing: dict[str, str] = {}
    for name in metrics:
        metric = METRICS[name]
        if told := unmet(metric, met, reference=reference.name, features=extractor.name):
            missing[name] = told
        elif metric.of == "samples" and least < metric.min_count:
            missing[name] = f"{metric.title}: expected at least {metric.min_count} images on each side, got {least}."
    return missing


def _images(given: Tensor | Images) -> Images:
    images = Held(given) if isinstance(given, Tensor) else given
    if len(images) < 2:
        raise UsageError(f"Scores need at least 2 images on each side; there were {len(images)}.")
    return images

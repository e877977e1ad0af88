"""How near samples are to real images: Frechet distance, KID, Inception Score, precision and recall.

The numbers are torch-fidelity's own, computed by its functions from features that are extracted here once; on the same
images they are those of `torch_fidelity.calculate_metrics` (tested). A Frechet distance is called FID, and a score of
logits Inception Score, where the network is Inception and nowhere else.

- Frechet distance: Heusel et al. 2017 (arXiv 1706.08500). Biased upward by few samples: compare at equal counts alone.
- KID: Binkowski et al. 2018 (arXiv 1801.01401). Unbiased, so it may be slightly below 0.
- Inception Score: Salimans et al. 2016 (arXiv 1606.03498).
- Precision and recall: Kynkaanniemi et al. 2019 (arXiv 1904.06991), k = 3.

Letters: n samples, D width of the embedding, K classes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from spherectl.checks import check_choice
from spherectl.errors import UsageError
from spherectl.evaluation.embeddings import Features, Held, Images, extract
from spherectl.evaluation.extractors import Extractor, checked, open_extractor
from spherectl.evaluation.reference import Reference, from_features, statistics
from spherectl.model import seeding

Metric = Literal["fid", "kid", "is", "prc", "acc"]
METRICS: tuple[Metric, ...] = get_args(Metric)
Quantise = Literal["round", "floor"]

# Below so many samples a Frechet distance tells more of their number than of their quality.
MIN_FID_IMAGES = 5_000

# Precision and recall compare all pairs; from more real images than these a random part is taken.
MAX_NEIGHBOURS = 10_000

NEIGHBOURS = 3  # k of precision and recall
SPLITS = 10  # of the Inception Score
SUBSET = 1_000  # of KID


@dataclass(frozen=True)
class Scores:
    """The scores of one set of samples, and all that they depend on; None for what was not asked or cannot be had.

    Attributes:
        features: name of the network.
        reference: what the samples were compared with.
        count: n.
        quantise: how the samples became bytes.
        frechet_distance: to the reference, in squared units of the embedding; lower is better.
        kid: squared kernel distance to the reference, mean of 100 random subsets; lower is better.
        kid_deviation: standard deviation over those subsets.
        inception_score: mean of 10 splits, 1 to K; higher is better.
        inception_score_deviation: standard deviation over those splits.
        precision: share of samples within the real images' neighbourhoods, 0 to 1.
        recall: share of real images within the samples' neighbourhoods, 0 to 1.
        accuracy: share of samples that the network gives their own class, 0 to 1.
    """

    features: str
    reference: str
    count: int
    quantise: str
    frechet_distance: float | None = None
    kid: float | None = None
    kid_deviation: float | None = None
    inception_score: float | None = None
    inception_score_deviation: float | None = None
    precision: float | None = None
    recall: float | None = None
    accuracy: float | None = None


def fidelity(
    samples: Tensor | Images,
    reference: Tensor | Images | Reference,
    features: str | Extractor,
    *,
    metrics: Collection[Metric] = ("fid", "kid", "is", "prc"),
    labels: Tensor | None = None,
) -> Scores:
    """Score images against others.

    Args:
        samples: uint8 (n, 3, H, W), or anything that gives such images by number.
        reference: real images likewise, or what `read_statistics` or `of_images` made of them.
        features: an extractor, or its name as `open_extractor` takes it.
        metrics: what to compute.
        labels: (n,) classes of the samples, for "acc".

    Raises:
        UsageError: too few images, images the network was not made for, or a metric that there is not or that
            cannot be had.
    """
    for metric in metrics:
        check_choice(metric, METRICS, "metrics")
    extractor = open_extractor(features) if isinstance(features, str) else features
    drawn = extract(_images(samples), extractor)
    if not isinstance(reference, Reference):
        images = _images(reference)
        found = extract(images, extractor)
        assert found is not None  # one process alone
        size = images.gather(torch.tensor([0])).shape[-1]
        reference = from_features(f"{len(images):,} images", found, extractor.name, size)
    assert drawn is not None
    if missing := unavailable(metrics, reference, extractor):
        raise UsageError(" ".join(missing.values()))
    return score(drawn, reference, extractor, metrics=metrics, labels=labels)


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
        metrics: what to compute, all of it available; words that name none are passed over.
        labels: (n,) classes, for "acc".
        quantise: how the images became bytes, for the record.

    Raises:
        UsageError: fewer than two images on a side.
    """
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    found: dict[str, float] = {}
    real = reference.features
    if "fid" in metrics:
        mean, covariance = statistics(samples.embedding)
        sides = ({"mu": mean, "sigma": covariance}, {"mu": reference.mean, "sigma": reference.covariance})
        found["frechet_distance"] = fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"]
    if "kid" in metrics and real is not None:
        size = min(SUBSET, len(samples), len(real))
        options = checked(kid_subset_size=size, verbose=False, rng_seed=2020)
        # In float32 the eighth digit of the kernel's sums would depend on the number of threads.
        kid = kid_features_to_metric(samples.embedding.double(), real.embedding.double(), **options)
        found["kid"] = kid["kernel_inception_distance_mean"]
        found["kid_deviation"] = kid["kernel_inception_distance_std"]
    if "is" in metrics and samples.logits is not None:
        isc = isc_features_to_metric(samples.logits, splits=min(SPLITS, len(samples)))
        found["inception_score"] = isc["inception_score_mean"]
        found["inception_score_deviation"] = isc["inception_score_std"]
    if "prc" in metrics and real is not None:
        if min(len(samples), len(real)) <= NEIGHBOURS:
            raise UsageError(f"Precision and recall need more than {NEIGHBOURS} images on each side.")
        options = checked(prc_neighborhood=NEIGHBOURS, prc_batch_size=2_500, save_cpu_ram=True, verbose=False)
        prc = prc_features_to_metric(samples.embedding, _some(real.embedding), **options)
        found["precision"], found["recall"] = prc["precision"], prc["recall"]
    if "acc" in metrics and samples.logits is not None and labels is not None:
        found["accuracy"] = float(right(samples.logits, labels).double().mean())
    return Scores(extractor.name, reference.name, len(samples), quantise, **found)


def unavailable(metrics: Collection[str], reference: Reference, extractor: Extractor) -> dict[str, str]:
    """Which of the metrics cannot be had, each with the reason in a sentence."""
    missing: dict[str, str] = {}
    for metric in metrics:
        if metric in ("kid", "prc") and reference.features is None:
            missing[metric] = (
                f"{NAMES[metric]} compares features image by image, and {reference.name} has their mean and "
                "covariance alone."
            )
        if metric in ("is", "acc") and extractor.logits is None:
            missing[metric] = f"{NAMES[metric]} needs a classifier, and {extractor.name} is none."
        if metric == "acc" and extractor.logits and not extractor.class_names:
            missing[metric] = (
                f"{NAMES[metric]} needs a network that knows the model's classes; {extractor.name} does not."
            )
    return missing


NAMES: dict[str, str] = {
    "fid": "The Frechet distance",
    "kid": "KID",
    "is": "The Inception Score",
    "prc": "Precision and recall",
    "acc": "Accuracy",
}


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) whether the largest of the logits (n, K) is the label's (n,)."""
    return logits.argmax(1) == labels.cpu()


def _some(features: Tensor) -> Tensor:
    """At most `MAX_NEIGHBOURS` rows, drawn at random, always the same."""
    if len(features) <= MAX_NEIGHBOURS:
        return features
    return features[seeding.permutation(0, seeding.ORDER, 0, len(features))[:MAX_NEIGHBOURS]]


def _images(given: Tensor | Images) -> Images:
    images = Held(given) if isinstance(given, Tensor) else given
    if len(images) < 2:
        raise UsageError(f"Scores need at least 2 images on each side; there were {len(images)}.")
    return images

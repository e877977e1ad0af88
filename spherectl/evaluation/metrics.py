"""The metrics, one record each: plans, scores, intervals, reports, errors, the command line and docs look them up.

A new metric is one entry of `METRICS`. Importing this file loads no torch, so that the command line can name the
metrics in its help; the functions load what they need.

- Frechet distance: Heusel et al. 2017 (arXiv 1706.08500). Biased upward by few samples: compare at equal counts alone.
- KID: Binkowski et al. 2018 (arXiv 1801.01401). Unbiased, so it may be slightly below 0.
- Inception Score: Salimans et al. 2016 (arXiv 1606.03498).
- Precision and recall: Kynkaanniemi et al. 2019 (arXiv 1904.06991), k = 3.

Letters: n samples, R resamples, B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from spherectl.evaluation.embeddings import Features
    from spherectl.evaluation.reference import Reference
    from spherectl.progress import Progress

# Below so many samples a Frechet distance tells more of their number than of their quality.
MIN_FID_IMAGES = 5_000

# Precision and recall compare all pairs; from more real images than these a random part is taken.
MAX_NEIGHBOURS = 10_000

NEIGHBOURS = 3  # k of precision and recall
SPLITS = 10  # of the Inception Score
SUBSET = 1_000  # of KID
PSNR_CAP_DB = 100.0  # of an image that came back as it was

Of = Literal["samples", "reconstructions", "latents", "near-copies"]

# What a metric may need, and what is said where it is missing.
NEEDS = {
    "real features": "{title} compares features image by image, and {reference} has their mean and covariance alone.",
    "logits": "{title} needs a classifier, and {features} is none.",
    "classes": "{title} needs a network that knows the model's classes; {features} does not.",
    "images": "The models' data set is not at hand, so there are no images to reconstruct.",
    "training images": "The models' training set is not at hand, so there are no latents to look at.",
    "both splits": "{title} are told from chance by the distances of test images: that needs the training and the test "
    "images of the model's data set, which --data gives.",
}


@dataclass(frozen=True)
class Score:
    """One number that a metric gives.

    Attributes:
        key: in report.json and as an attribute of `Scores` and `Reconstruction`.
        label: head of its column; empty: it is in report.json alone.
        shown: how it is printed.
        better: which values are better.
        of_inception: head of its column where the features are Inception's.
    """

    key: str
    label: str = ""
    shown: str = "{:.4g}"
    better: Literal["lower", "higher"] = "lower"
    of_inception: str = ""

    def head(self, is_inception: bool) -> str:
        """Head of its column; the names of Inception's scores are for Inception alone."""
        return (is_inception and self.of_inception) or self.label


@dataclass(frozen=True, eq=False)
class Measured:
    """What a metric of features looks at.

    Attributes:
        samples: features of n images.
        reference: what they are compared with.
        labels: (n,) their classes, where the network knows them.
    """

    samples: Features
    reference: Reference
    labels: Tensor | None = None


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as `--metrics` and `Plan.metrics` take it.
        title: begins a sentence.
        what: in the docs.
        source: in the docs.
        of: what it measures.
        scores: the numbers it gives.
        needs: names of `NEEDS`.
        min_count: images that it needs on each side.
        usual: whether it is measured unless metrics are named.
        compute: its scores from features; reconstructions are the samples, and their originals the reference.
        resample: (R,) values of some of its scores, given also multiplicities (R, n).
        compare: of reconstructions: given a device, a function of originals and reconstructions, uint8 (B, 3, H, W), to
            its one score of each image (B,).
    """

    name: str
    title: str
    what: str
    source: str = ""
    of: Of = "samples"
    scores: tuple[Score, ...] = ()
    needs: tuple[str, ...] = ()
    min_count: int = 2
    usual: bool = True
    compute: Callable[[Measured], dict[str, float]] | None = None
    resample: Callable[[Measured, Tensor, Progress | None], dict[str, Tensor]] | None = None
    compare: Callable[[torch.device], Callable[[Tensor, Tensor], Tensor]] | None = None


def usual() -> tuple[str, ...]:
    """Names of the metrics that are measured unless others are named."""
    return tuple(name for name, metric in METRICS.items() if metric.usual)


def chosen(names: Collection[str], of: Of) -> list[Metric]:
    """The records of those names that measure samples, or reconstructions, or so on."""
    return [metric for name, metric in METRICS.items() if name in names and metric.of == of]


def scores_of(of: Of) -> dict[str, Score]:
    """All scores of samples, or of reconstructions, by key, in the order of their columns."""
    return {score.key: score for metric in METRICS.values() if metric.of == of for score in metric.scores}


def unmet(metric: Metric, there: Collection[str], **names: str) -> str | None:
    """The first of its needs that is not there, in a sentence; `names` are those of the reference and the features."""
    missing = [need for need in metric.needs if need not in there]
    return NEEDS[missing[0]].format(title=metric.title, **names) if missing else None


# The functions of torch-fidelity on features that are extracted once; on the same images they give the numbers of
# `torch_fidelity.calculate_metrics` (tests/evaluation/test_fidelity.py).


def _frechet(given: Measured) -> float:
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    from spherectl.evaluation.reference import statistics

    mean, covariance = statistics(given.samples.embedding)
    real = {"mu": given.reference.mean, "sigma": given.reference.covariance}
    found = fid_statistics_to_metric({"mu": mean, "sigma": covariance}, real, verbose=False)
    return float(found["frechet_inception_distance"])


def _resample_frechet(given: Measured, m: Tensor, progress: Progress | None) -> dict[str, Tensor]:
    import torch

    from spherectl.evaluation.replicates import frechet_replicates

    moments = torch.from_numpy(given.reference.mean), torch.from_numpy(given.reference.covariance)
    return {"frechet_distance": frechet_replicates(given.samples.embedding, *moments, m, progress)}


def _kid(given: Measured) -> dict[str, float]:
    from torch_fidelity.metric_kid import kid_features_to_metric

    from spherectl.evaluation.extractors import checked

    real = _real(given)
    options = checked(kid_subset_size=min(SUBSET, len(given.samples), len(real)), verbose=False, rng_seed=2020)
    # In float32 the eighth digit of the kernel's sums would depend on the number of threads.
    kid = kid_features_to_metric(given.samples.embedding.double(), real.double(), **options)
    return {"kid": kid["kernel_inception_distance_mean"], "kid_deviation": kid["kernel_inception_distance_std"]}


def _resample_kid(given: Measured, m: Tensor, _: Progress | None) -> dict[str, Tensor]:
    from spherectl.evaluation.replicates import kid_replicates

    # The reference's own part is the same in all resamples, and an interval is put around the score.
    return {"kid": kid_replicates(given.samples.embedding, _real(given), m, within_reference=0.0)}


def _inception_score(given: Measured) -> dict[str, float]:
    from torch_fidelity.metric_isc import isc_features_to_metric

    isc = isc_features_to_metric(_logits(given), splits=min(SPLITS, len(given.samples)))
    deviation = isc["inception_score_std"]
    return {"inception_score": isc["inception_score_mean"], "inception_score_deviation": deviation}


def _resample_inception_score(given: Measured, m: Tensor, _: Progress | None) -> dict[str, Tensor]:
    from spherectl.evaluation.replicates import inception_score_replicates

    return {"inception_score": inception_score_replicates(_logits(given), m)}


def _precision_recall(given: Measured) -> dict[str, float]:
    from torch_fidelity.metric_prc import prc_features_to_metric

    from spherectl.evaluation.extractors import checked
    from spherectl.model import seeding

    real = _real(given)
    if len(real) > MAX_NEIGHBOURS:  # a random part, always the same
        real = real[seeding.permutation(0, seeding.ORDER, 0, len(real))[:MAX_NEIGHBOURS]]
    options = checked(prc_neighborhood=NEIGHBOURS, prc_batch_size=2_500, save_cpu_ram=True, verbose=False)
    prc = prc_features_to_metric(given.samples.embedding, real, **options)
    return {"precision": prc["precision"], "recall": prc["recall"]}


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) whether the largest of the logits (n, K) is the label's (n,)."""
    return logits.argmax(1) == labels.cpu()


def _accuracy(given: Measured) -> dict[str, float]:
    if given.labels is None:
        return {}
    return {"accuracy": float(correct(_logits(given), given.labels).double().mean())}


def _resample_accuracy(given: Measured, m: Tensor, _: Progress | None) -> dict[str, Tensor]:
    from spherectl.evaluation.bootstrap import mean_replicates

    if given.labels is None:
        return {}
    return {"accuracy": mean_replicates(correct(_logits(given), given.labels).double(), m)}


def _real(given: Measured) -> Tensor:
    assert given.reference.features is not None, "a need that was checked"
    return given.reference.features.embedding


def _logits(given: Measured) -> Tensor:
    assert given.samples.logits is not None, "a need that was checked"
    return given.samples.logits


def _compare_psnr(_: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    from spherectl.images import psnr

    return lambda originals, reconstructions: psnr(originals, reconstructions).clamp(max=PSNR_CAP_DB)


def _compare_ssim(_: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    from spherectl.evaluation.reconstruction import ssim

    return ssim


def _compare_lpips(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    from spherectl.evaluation.reconstruction import lpips
    from spherectl.features import imagenet

    network = imagenet.load_lpips().to(device)
    return lambda originals, reconstructions: lpips(network, originals, reconstructions)


_RECONSTRUCTIONS: dict[str, Any] = {"of": "reconstructions", "needs": ("images",)}

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "fid",
            "The Frechet distance",
            "Frechet distance of the features of samples and real images",
            "Heusel et al. 2017, arXiv 1706.08500",
            scores=(Score("frechet_distance", "Frechet distance", of_inception="FID"),),
            compute=lambda given: {"frechet_distance": _frechet(given)},
            resample=_resample_frechet,
        ),
        Metric(
            "kid",
            "KID",
            "squared kernel distance of the same features, mean of 100 subsets of at most 1,000",
            "Binkowski et al. 2018, arXiv 1801.01401",
            scores=(Score("kid", "KID"), Score("kid_deviation")),
            needs=("real features",),
            compute=_kid,
            resample=_resample_kid,
        ),
        Metric(
            "is",
            "The Inception Score",
            "Inception Score, mean of 10 splits",
            "Salimans et al. 2016, arXiv 1606.03498",
            scores=(
                Score("inception_score", "class score", "{:.2f}", "higher", "Inception Score"),
                Score("inception_score_deviation"),
            ),
            needs=("logits",),
            compute=_inception_score,
            resample=_resample_inception_score,
        ),
        # Without intervals: repeats shrink the balls of recall, and torch-fidelity gives no precision image by image.
        Metric(
            "prc",
            "Precision and recall",
            "precision and recall, k = 3",
            "Kynkaanniemi et al. 2019, arXiv 1904.06991",
            scores=(
                Score("precision", "precision", "{:.3f}", "higher"),
                Score("recall", "recall", "{:.3f}", "higher"),
            ),
            needs=("real features",),
            min_count=NEIGHBOURS + 1,
            compute=_precision_recall,
        ),
        Metric(
            "acc",
            "Accuracy",
            "share of samples whose class the scoring network finds",
            scores=(Score("accuracy", "accuracy", "{:.1%}", "higher"),),
            needs=("logits", "classes"),
            compute=_accuracy,
            resample=_resample_accuracy,
        ),
        Metric(
            "rfid",
            "The Frechet distance of reconstructions",
            "Frechet distance of reconstructions and their originals",
            scores=(Score("rfid", "Frechet distance", of_inception="rFID"),),
            compute=lambda given: {"rfid": _frechet(given)},
            **_RECONSTRUCTIONS,
        ),
        Metric(
            "psnr",
            "PSNR",
            "peak signal-to-noise ratio of reconstructions",
            scores=(Score("psnr", "PSNR, dB", "{:.2f}", "higher"),),
            compare=_compare_psnr,
            **_RECONSTRUCTIONS,
        ),
        Metric(
            "ssim",
            "SSIM",
            "structural similarity of reconstructions",
            "Wang et al. 2004",
            scores=(Score("ssim", "SSIM", "{:.4f}", "higher"),),
            compare=_compare_ssim,
            **_RECONSTRUCTIONS,
        ),
        Metric(
            "lpips",
            "LPIPS",
            "LPIPS 0.1 on VGG16 of reconstructions",
            "Zhang et al. 2018",
            scores=(Score("lpips", "LPIPS", "{:.4f}"),),
            usual=False,
            compare=_compare_lpips,
            **_RECONSTRUCTIONS,
        ),
        Metric(
            "uniformity",
            "Uniformity",
            "how evenly the latents of training images lie on the sphere",
            of="latents",
            needs=("training images",),
            usual=False,
        ),
        Metric(
            "memorisation",
            "Near-copies",
            "near-copies of training images among the samples",
            of="near-copies",
            needs=("both splits",),
            usual=False,
        ),
    )
}

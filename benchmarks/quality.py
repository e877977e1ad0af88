"""How much the fast ways change the images: against float32 on the same seeds, and by a scorer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from benchmarks.scoring import SCORER, frechet, reference_of
from benchmarks.subjects import BASELINE, PLAIN, SEED, Subject, draw, guidance, what
from benchmarks.timing import rounded
from spherectl import api
from spherectl.data.datasets import ImageSet
from spherectl.data.transforms import to_uint8
from spherectl.evaluation.bootstrap import interval
from spherectl.evaluation.embeddings import Features
from spherectl.evaluation.extractors import open_extractor
from spherectl.evaluation.posterior import frechet_replicates
from spherectl.features.independence import check_independent
from spherectl.images import psnr

STEPS = (1, 4)
BATCH = 64
INVARIANT = 32  # images computed together and one by one
RESAMPLES = 200
COVERED = 0.95  # of the bootstrap interval
LOW = 0.01  # quantile of PSNR


def differences(subject: Subject, count: int, test: ImageSet | None) -> list[dict[str, Any]]:
    """The fast ways against the baseline: same seeds, classes in turn.

    Args:
        subject: a trained model.
        count: images at each number of steps.
        test: images to score against, of the model's classes; None: no scores.
    """
    rows = []
    scorer = None if test is None else Scorer(subject.baseline, test)
    fast = {path: model for path, model in subject.models.items() if path not in (BASELINE, PLAIN)}
    for steps in STEPS:
        exact = drawn(subject.baseline, count, steps)
        features = None if scorer is None else scorer.embed(exact)
        for path, model in fast.items():
            images = drawn(model, count, steps)
            row = {"what": what(steps), "path": path, "images": count, **compared(images, exact)}
            if scorer is not None and features is not None:
                row |= scorer.compared(scorer.embed(images), features)
            rows.append(row)
    return rows


def drawn(model: api.Model, count: int, steps: int) -> Tensor:
    """Images (count, 3, H, W) in [0, 1], in batches as `sample` draws them."""
    batches = api.generate(model, count, steps=steps, guidance=guidance(model, steps), seed=SEED, batch=BATCH)
    return torch.cat([batch.images for batch in batches])


def compared(images: Tensor, exact: Tensor) -> dict[str, Any]:
    """PSNR of each image (n, 3, H, W) against its exact twin, before rounding to levels, and the levels after it."""
    found = psnr(images, exact)
    lowest = max(1, math.ceil(LOW * len(found)))
    return {
        "median_psnr_db": finite(found.median()),
        "low_psnr_db": finite(found.kthvalue(lowest).values),
        "largest_difference_levels": int((to_uint8(images).int() - to_uint8(exact).int()).abs().max()),
    }


def finite(value: Tensor) -> float | None:
    """Three digits, or None for infinity, which JSON does not have."""
    return rounded(float(value)) if math.isfinite(value) else None


class Scorer:
    """Frechet distances to a test set, by a network that is not the model's own loss.

    Args:
        model: whose images are scored.
        test: the set.
    """

    def __init__(self, model: api.Model, test: ImageSet) -> None:
        check_independent(model.recipe, SCORER)
        self._extractor = open_extractor(SCORER)
        self._reference = reference_of(test, self._extractor)

    def embed(self, images: Tensor) -> Tensor:
        """(n, D) of images, rounded to levels first, as a PNG would hold them."""
        return self._extractor(to_uint8(images))["embedding"]

    def distance(self, features: Tensor) -> float:
        """Of features (n, D)."""
        return frechet(features, self._reference, self._extractor)

    def compared(self, features: Tensor, exact: Tensor) -> dict[str, Any]:
        """Both distances, their relative change, and how far the exact one's bootstrap interval reaches to a side."""
        mine, before = self.distance(features), self.distance(exact)
        again = frechet_replicates(Features(exact, None), self._reference, RESAMPLES, SEED)
        low, high = interval(before, again, COVERED)
        return {
            "frechet_float32": rounded(before),
            "frechet": rounded(mine),
            "change_percent": rounded(100 * (mine / before - 1)),
            "interval_percent": rounded(100 * (high - low) / 2 / before),
        }


def invariance(subject: Subject, count: int = INVARIANT) -> list[dict[str, Any]]:
    """Bytes that differ between images computed together and one by one, in each way."""
    rows = []
    for path, model in subject.models.items():
        together = to_uint8(draw(model, count, STEPS[-1])).int()
        alone = torch.cat([to_uint8(draw(model, [index], STEPS[-1])).int() for index in range(count)])
        levels = (together - alone).abs()
        rows.append({
            "what": what(STEPS[-1]),
            "path": path,
            "images": count,
            "bytes": levels.numel(),
            "bytes_that_differ": int((levels > 0).sum()),
            "largest_difference_levels": int(levels.max()),
        })  # fmt: skip
    return rows

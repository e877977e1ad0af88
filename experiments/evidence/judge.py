"""One judge for images of any model: scores with bootstrap intervals, by a network that no loss has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from benchmarks.scoring import SCORER, reference_of
from benchmarks.tables import Row
from benchmarks.timing import rounded
from spherectl.data.datasets import ImageSet
from spherectl.evaluation.bootstrap import interval
from spherectl.evaluation.embeddings import Features, Images, extract, real_draw
from spherectl.evaluation.extractors import Extractor, open_extractor
from spherectl.evaluation.fidelity import score
from spherectl.evaluation.metrics import correct
from spherectl.evaluation.posterior import frechet_replicates
from spherectl.evaluation.reference import Reference

SEED = 0  # of samples, noise, draws of real images and the bootstrap
BATCH = 100


@dataclass(frozen=True, eq=False)
class Judge:
    """What all images are held against.

    Attributes:
        extractor: the network.
        reference: features of the test images.
        train, test: real images.
        count: images of each row, at most.
        resamples: of the bootstrap.
    """

    extractor: Extractor
    reference: Reference
    train: ImageSet
    test: ImageSet
    count: int
    resamples: int

    def score(self, images: Images, labels: Tensor | None) -> Row:
        """Frechet distance with its 95% interval, recall, and, where images have classes, accuracy in %."""
        features = extract(images, self.extractor, batch=BATCH)
        assert features is not None  # one process alone
        return self.score_features(features, labels)

    def score_features(self, features: Features, labels: Tensor | None) -> Row:
        """`score` of images whose features are known."""
        found = score(features, self.reference, self.extractor, metrics=["fid", "prc"])
        distance = cast("float", found.frechet_distance)
        low, high = interval(distance, frechet_replicates(features, self.reference, self.resamples, SEED))
        row: Row = {
            "count": len(features),
            "frechet": rounded(distance),
            "low": rounded(low),
            "high": rounded(high),
            "recall": rounded(cast("float", found.recall)),
        }
        if labels is not None and features.logits is not None:
            row["right"] = rounded(100 * float(correct(features.logits, labels).double().mean()))
        return row

    def real(self) -> Row:
        """What as many training images get."""
        draw = real_draw(self.train, self.count, SEED)
        return self.score(draw, self.train.labels[draw.indices])

    def probabilities(self, pixels: Tensor) -> Tensor:
        """(n, K) of the classes of uint8 (n, 3, H, W)."""
        return torch.cat([self.extractor(some)["logits"] for some in pixels.split(BATCH)]).softmax(1)


def judge(train: ImageSet, test: ImageSet, count: int, resamples: int) -> Judge:
    """The judge of a data set."""
    extractor = open_extractor(SCORER)
    return Judge(extractor, reference_of(test, extractor), train, test, count, resamples)

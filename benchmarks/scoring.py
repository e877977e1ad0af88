"""Frechet distances by a network of the zoo that is nobody's loss."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from spherectl.data.datasets import ImageSet
from spherectl.evaluation.embeddings import Features
from spherectl.evaluation.extractors import Extractor
from spherectl.evaluation.fidelity import score
from spherectl.evaluation.reference import Reference, of_images

SCORER = "fashion-scorer"


def reference_of(images: ImageSet, extractor: Extractor, what: str = "test") -> Reference:
    """What a split of a data set, named by `what`, is compared by; in one process alone."""
    reference = of_images(images, extractor, what=what)
    assert reference is not None
    return reference


def frechet(embedding: Tensor, reference: Reference, extractor: Extractor) -> float:
    """Distance of images whose features (n, D) are known."""
    scores = score(Features(embedding, None), reference, extractor, metrics=["fid"])
    return cast("float", scores.frechet_distance)

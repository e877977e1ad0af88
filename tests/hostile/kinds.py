"""The generators, by kind of input: each gives `Attempt`s that begin with something valid and change it."""

from __future__ import annotations

from hypothesis.strategies import SearchStrategy

from tests.hostile import archives, documents, images, models, options
from tests.hostile.harness import Attempt

KINDS: dict[str, SearchStrategy[Attempt]] = {
    **models.KINDS,
    **images.KINDS,
    **documents.KINDS,
    **archives.KINDS,
    **options.KINDS,
}

"""Images by number, from wherever they come, and their features.

Letters: n images, B batch, D width of the embedding, K classes, H and W image sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from spherectl.data.datasets import FolderImages, ImageSet
from spherectl.data.decode import ImageError
from spherectl.evaluation.extractors import Extractor
from spherectl.model import seeding
from spherectl.processes import Processes
from spherectl.progress import Progress

BATCH = 64
MAX_LOOKED_AT = 1_000  # images of a folder, spread over all, until one has another size than the model's


class Images(Protocol):
    """Anything that gives images by number, as `ImageSet` does."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def gather(self, indices: Tensor) -> Tensor:
        """Those of the numbers (B,): uint8 (B, 3, H, W)."""
        ...


@dataclass(frozen=True, eq=False)
class Held:
    """Images in memory: `pixels` uint8 (n, 3, H, W)."""

    pixels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def gather(self, indices: Tensor) -> Tensor:
        """Those of the numbers (B,)."""
        return self.pixels[indices]


@dataclass(frozen=True, eq=False)
class Part:
    """Some images of a set: those at `indices` (n,)."""

    whole: Images
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def gather(self, indices: Tensor) -> Tensor:
        """Those of the numbers (B,) among the chosen."""
        return self.whole.gather(self.indices[indices])


@dataclass(frozen=True, eq=False)
class Features:
    """Features of n images.

    Attributes:
        embedding: (n, D) float32.
        logits: (n, K) float32; None where the network has none.
    """

    embedding: Tensor
    logits: Tensor | None

    def __len__(self) -> int:
        return len(self.embedding)


def extract(
    images: Images,
    extractor: Extractor,
    *,
    batch: int = BATCH,
    processes: Processes | None = None,
    progress: Progress | None = None,
) -> Features | None:
    """Features of images, each computed once by one of the processes, whose bits do not depend on their number.

    Args:
        images: at least one.
        extractor: the network.
        batch: images gathered together.
        processes: those that share the work.
        progress: called with images done and images in all.

    Returns:
        On the first process all features; None on the others.
    """
    shared = processes or Processes()
    found = shared.gather(len(images), batch, lambda numbers: extractor(images.gather(numbers)), progress)
    return Features(found["embedding"], found.get("logits")) if shared.is_first else None


def note_on_fit(images: ImageSet) -> str | None:
    """How images of a folder or list become as large as the model's; None where they are so already.

    Of published sets, which are always fitted in the one way, there is nothing to say.
    """
    if not isinstance(images, FolderImages):
        return None
    side, numbers = images.image_size, range(0, len(images), -(-len(images) // MAX_LOOKED_AT))
    if all(_size(images, number) in (None, (side, side)) for number in numbers):
        return None
    small = "laid on black where they fit, else " if images.fit == "pad or adm" else ""
    return (
        f"Images of {images.name} that are not {side} x {side} px are {small}resized and cropped to their centre, "
        "as editing does (ADM's crop)."
    )


def _size(images: FolderImages, number: int) -> tuple[int, int] | None:
    """Width and height; None where it cannot be read, which is told once it is needed."""
    try:
        return images.load(number).size
    except ImageError:
        return None


def real_draw(images: ImageSet, count: int, seed: int) -> Part:
    """Real images drawn as evenly over the classes as samples are; all where there are no more than `count`."""
    return Part(images, even_draw(images.labels, min(count, len(images)), seed))


def even_draw(labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices (count,) of images drawn without replacement, as evenly over the classes as `count` allows.

    Args:
        labels: (n,) classes.
        count: at most n.
        seed: of the draw.
    """
    order = seeding.permutation(seed, seeding.ORDER, 0, len(labels))  # (n,)
    mine = labels[order]
    turn = torch.zeros_like(mine)  # an image's place among those of its class
    for label in mine.unique():
        of_class = mine == label
        turn[of_class] = torch.arange(int(of_class.sum()))
    return order[turn.argsort(stable=True)[:count]]

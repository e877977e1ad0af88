"""The order in which training sees images, exact from any image on.

Image s of a run, counted from 0, is image permutation(seed, epoch = s // n)[s % n]; a random number of image s decides
whether it is mirrored (section 11). Nothing else matters: neither batch size nor workers nor where a run was resumed.

Sets of shards that have to be fetched are shuffled by shards: the permutation of an epoch is then one of the shards,
and within windows of a few of them one of their images.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
from collections.abc import Callable, Generator, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from spherectl.data.image_set import ImageSet, Read
from spherectl.data.remote import WINDOW
from spherectl.data.streamed import Ahead, RemoteImages
from spherectl.data.workers import read_ahead, worker_count
from spherectl.errors import UsageError
from spherectl.model import seeding
from spherectl.recipe import MAX_WORKERS

# Workers read pieces of a batch, so that all of them work on the next one.
_LARGEST_PIECE = 32


class Batch(NamedTuple):
    """What one step trains on, or this process's share of it."""

    images: Tensor  # (B, 3, S, S) uint8
    labels: Tensor  # (B,) int64
    first_image: int  # images of the run before this batch, over all processes
    unreadable: tuple[str, ...] = ()  # images that cannot be read, and for which others stand


def training_batches(
    dataset: ImageSet,
    *,
    seed: int,
    batch_size: int,
    start_image: int = 0,
    flip: bool = True,
    workers: int | Literal["auto"] = "auto",
    share: tuple[int, int] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[Batch | None]:
    """Endless batches of images start_image, start_image + 1, ... of the run.

    An image that cannot be read is replaced by the next that can (`ImageSet.read`) and named in `unreadable`.

    Args:
        dataset: the training set.
        seed: the run's 64-bit seed.
        batch_size: B, over all processes.
        start_image: images that the run has already seen; need not be a multiple of B.
        flip: mirror half of the images left to right.
        workers: processes that decode ahead, at most 256; "auto": one a core, at most 8. Sets in memory need none and
            start none.
        share: begin and end of this process's part of each batch, 0 <= begin < end <= B; None: all of it.
        should_stop: asked after each second of waiting for a worker's images.

    Yields:
        Batches in order; None where one is waited for and `should_stop` says True. Closing the iterator ends the
        workers.

    Raises:
        UsageError: the set is empty, a number is out of range, or one batch does not fit into the memory.
        FileError: from the iterator, when too many images in a row cannot be read.
        SpherectlError: from the iterator, when a worker process is killed or a shard cannot be fetched.
    """
    if len(dataset) == 0:
        raise UsageError(f"The set {dataset.name} ({dataset.root}) has no images to train on.")
    if batch_size < 1 or start_image < 0:
        raise UsageError(f"Expected a batch of at least 1 and a start of at least 0, got {batch_size}, {start_image}.")
    begin, end = share or (0, batch_size)
    if not 0 <= begin < end <= batch_size:
        raise UsageError(f"Expected a share of the images 0 to {batch_size} of a batch, got {begin} to {end}.")
    if workers != "auto" and not 0 <= workers <= MAX_WORKERS:
        raise UsageError(f"Expected 0 to {MAX_WORKERS} workers (data.workers), got {workers:,}.")
    _refuse_more_than_memory(end - begin, dataset.image_size)
    order = _Order(seed, dataset, start_image, batch_size, (begin, end), worker_count(workers, dataset))
    return _batches(dataset, order, flip, should_stop)


def image_numbers(seed: int, first: int, count: int, n: int, shards: tuple[int, ...] = ()) -> Tensor:
    """Which of n images images first ... first + count - 1 of a run are: (count,) int64.

    Args:
        seed: the run's seed.
        first: images before them.
        count: how many.
        n: images in the set.
        shards: images in each shard, summing to n, where the order keeps to shards.
    """
    images = torch.arange(first, first + count)
    epochs = images // n
    numbers = torch.empty_like(images)
    for epoch in range(first // n, (first + count - 1) // n + 1):
        inside = epochs == epoch
        numbers[inside] = _epoch_order(seed, epoch, n, shards)[images[inside] % n]
    return numbers


def mirrored(seed: int, first: int, count: int) -> Tensor:
    """Which of images first ... first + count - 1 of a run are mirrored: (count,) bool."""
    return seeding.uniform(seed, seeding.AUGMENT, torch.arange(first, first + count), 1)[:, 0] < 0.5


# Two, because workers read ahead into the next epoch while the loop is still in this one.
@functools.lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, n: int, shards: tuple[int, ...]) -> Tensor:
    """(n,) numbers of images; by shards: round 0 permutes these, round 1 + w the images of the w-th window."""
    if not shards:
        return seeding.permutation(seed, seeding.ORDER, epoch, n)
    numbers = torch.arange(n).split(list(shards))
    order = seeding.permutation(seed, seeding.ORDER, epoch, len(shards)).tolist()
    windows = [torch.cat([numbers[shard] for shard in order[i : i + WINDOW]]) for i in range(0, len(order), WINDOW)]
    return torch.cat(
        [
            window[seeding.permutation(seed, seeding.ORDER, epoch, len(window), round=1 + w)]
            for w, window in enumerate(windows)
        ]
    )


class _Order:
    """Endless lists of image numbers, a piece of a share of a batch each; the last piece of one may be shorter."""

    def __init__(
        self, seed: int, dataset: ImageSet, start: int, batch_size: int, share: tuple[int, int], workers: int
    ) -> None:
        self.seed, self.start, self.batch_size, self.workers = seed, start, batch_size, workers
        self._n, self._shards = len(dataset), dataset.shard_counts
        self.begin, self.end = share
        size = self.end - self.begin
        self.piece = min(-(-size // workers), _LARGEST_PIECE) if workers else size
        self._pieces = [(at, min(self.piece, self.end - at)) for at in range(self.begin, self.end, self.piece)]
        self.pieces_per_batch = len(self._pieces)

    def __iter__(self) -> Iterator[list[int]]:
        for first in itertools.count(self.start, self.batch_size):
            for at, length in self._pieces:
                yield self.numbers(first + at, length).tolist()

    def numbers(self, first: int, count: int) -> Tensor:
        return image_numbers(self.seed, first, count, self._n, self._shards)


def _batches(dataset: ImageSet, order: _Order, flip: bool, should_stop: Callable[[], bool]) -> Generator[Batch | None]:
    pieces: Iterator[Read | None] = map(dataset.read, order)
    if order.workers:
        held = order.end - order.begin
        pieces = read_ahead(
            dataset, order, workers=order.workers, length=order.piece, held=held, should_stop=should_stop
        )
    with contextlib.ExitStack() as stack:
        ahead = None
        for first in itertools.count(order.start, order.batch_size):
            read: list[Read] = []
            while len(read) < order.pieces_per_batch:
                if (piece := next(pieces)) is None:
                    yield None
                else:
                    read.append(piece)
            images = torch.cat([piece.images for piece in read])  # (B, 3, S, S)
            if flip:
                turned = mirrored(order.seed, first + order.begin, len(images))
                images[turned] = images[turned].flip(-1)
            labels = torch.cat([piece.labels for piece in read])
            if isinstance(dataset, RemoteImages):
                if ahead is None:  # only now: a thread would not survive the forks of the workers
                    ahead = stack.enter_context(contextlib.closing(Ahead(dataset)))
                ahead.expect(order.numbers(first + order.batch_size, WINDOW * max(dataset.shard_counts)))
            yield Batch(images, labels, first, tuple(name for piece in read for name in piece.unreadable))


def _refuse_more_than_memory(images: int, image_size: int) -> None:
    """A batch that alone is larger than this machine's memory is told before anything of its size is made."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    needed = images * 3 * image_size**2
    if needed > memory:
        raise UsageError(
            f"A batch of {images:,} images of {image_size} px has {needed / 1e9:,.1f} GB of pixels; this machine has "
            f"{memory / 1e9:,.1f} GB of memory.",
            "Use a smaller batch: --set run.batch_size=256.",
        )

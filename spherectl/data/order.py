"""The order in which training sees pictures, exact from any image on.

Image s of a run, counted from 0, is picture permutation(seed, epoch = s // n)[s % n], mirrored if its own draw says so
(section 11). Nothing else decides: not the batch, not the workers, not where a run was resumed.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
from collections.abc import Generator, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spherectl.data.datasets import PictureSet
from spherectl.errors import SpherectlError, UsageError
from spherectl.model import seeding

# Workers read pieces of a batch: all of them work on the next one, and shared memory (64 MB in a plain container) holds
# two pieces a worker instead of two batches.
_LARGEST_PIECE = 32
_MOST_WORKERS = 8


class Batch(NamedTuple):
    """What one step trains on."""

    images: Tensor  # (B, 3, S, S) uint8
    labels: Tensor  # (B,) int64
    first_image: int  # images of the run before this batch


def training_batches(
    pictures: PictureSet,
    *,
    seed: int,
    batch_size: int,
    start_image: int = 0,
    flip: bool = True,
    workers: int | Literal["auto"] = "auto",
) -> Generator[Batch]:
    """Endless batches of images start_image, start_image + 1, ... of the run.

    Args:
        pictures: the training set.
        seed: the run's 64-bit seed.
        batch_size: B.
        start_image: images that the run has already seen; need not be a multiple of B.
        flip: mirror half of the images left to right.
        workers: processes that decode ahead; "auto": one a core, at most 8. Sets in memory need none and start none.

    Yields:
        Batches in order. Closing the iterator ends the workers.

    Raises:
        UsageError: the set is empty, or a number is out of range.
        FileError: from the iterator, when a picture cannot be read.
        SpherectlError: from the iterator, when a worker process is killed.
    """
    if len(pictures) == 0:
        raise UsageError(f"The set {pictures.name} ({pictures.root}) has no pictures to train on.")
    if batch_size < 1 or start_image < 0:
        raise UsageError(f"Expected a batch of at least 1 and a start of at least 0, got {batch_size}, {start_image}.")
    return _batches(pictures, seed, batch_size, start_image, flip, _worker_count(workers, pictures))


def picture_numbers(seed: int, first: int, count: int, n: int) -> Tensor:
    """Which of n pictures images first ... first + count - 1 of a run are: (count,) int64."""
    images = torch.arange(first, first + count)
    epochs = images // n
    numbers = torch.empty_like(images)
    for epoch in range(first // n, (first + count - 1) // n + 1):
        inside = epochs == epoch
        numbers[inside] = _epoch_order(seed, epoch, n)[images[inside] % n]
    return numbers


def mirrored(seed: int, first: int, count: int) -> Tensor:
    """Which of images first ... first + count - 1 of a run are mirrored: (count,) bool."""
    return seeding.uniform(seed, seeding.AUGMENT, torch.arange(first, first + count), 1)[:, 0] < 0.5


# Two, because workers read ahead into the next epoch while the loop is still in this one.
@functools.lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, n: int) -> Tensor:
    return seeding.permutation(seed, seeding.ORDER, epoch, n)


def _batches(
    pictures: PictureSet, seed: int, batch_size: int, start: int, flip: bool, workers: int
) -> Generator[Batch]:
    piece = -(-batch_size // max(workers, 1))
    order = _Order(seed, len(pictures), start, batch_size, min(piece, _LARGEST_PIECE) if workers else batch_size)
    pieces = _read_ahead(pictures, order, workers) if workers else map(pictures.gather, order)
    for first in itertools.count(start, batch_size):
        images = torch.cat([next(pieces) for _ in range(order.pieces_per_batch)])  # (B, 3, S, S)
        if flip:
            turned = mirrored(seed, first, batch_size)
            images[turned] = images[turned].flip(-1)
        yield Batch(images, pictures.labels[picture_numbers(seed, first, batch_size, len(pictures))], first)


class _Order:
    """Endless lists of picture numbers, a piece of a batch each; the last piece of a batch may be shorter."""

    def __init__(self, seed: int, n: int, start: int, batch_size: int, piece: int) -> None:
        self._seed, self._n, self._start = seed, n, start
        self._lengths = [min(piece, batch_size - done) for done in range(0, batch_size, piece)]
        self.pieces_per_batch = len(self._lengths)

    def __iter__(self) -> Iterator[list[int]]:
        first = self._start
        for length in itertools.cycle(self._lengths):
            yield picture_numbers(self._seed, first, length, self._n).tolist()
            first += length


class _Reader(Dataset["Tensor | SpherectlError"]):
    """Pieces for worker processes. Errors travel as values: the loader would turn them into a page of traceback."""

    def __init__(self, pictures: PictureSet) -> None:
        self._pictures = pictures

    def __getitems__(self, numbers: list[int]) -> Tensor | SpherectlError:
        try:
            return self._pictures.gather(numbers)
        except SpherectlError as error:
            return error


def _read_ahead(pictures: PictureSet, order: _Order, workers: int) -> Iterator[Tensor]:
    loader = DataLoader(
        _Reader(pictures),
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_as_read,
        worker_init_fn=_leave_signals_to_parent,
        generator=torch.Generator(),  # else it would draw from, and so change, the process's global generator
    )
    try:
        for piece in loader:
            if isinstance(piece, SpherectlError):
                raise piece
            yield piece
    except (RuntimeError, OSError, EOFError) as error:
        # The loader's own word for a dead worker, or what comes of asking one for the memory that it shared.
        if str(error).startswith("Caught "):  # an exception in a living worker: a mistake in the program
            raise
        raise SpherectlError(
            f"A process that reads pictures was killed ({' '.join(str(error).split()).rstrip('.')}).",
            "Usually memory, or shared memory in a container, ran out: --set data.workers=0 reads without processes.",
        ) from None


def _as_read(piece: Any) -> Any:
    return piece


def _leave_signals_to_parent(_worker: int) -> None:
    """Ctrl-C and SIGTERM reach the whole process group; the loop still wants its batch before it saves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _worker_count(workers: int | Literal["auto"], pictures: PictureSet) -> int:
    if pictures.in_memory:
        return 0
    if workers != "auto":
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS)

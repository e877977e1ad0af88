"""The order in which training sees pictures, exact from any image on.

Image s of a run, counted from 0, is picture permutation(seed, epoch = s // n)[s % n], mirrored if its own draw says so
(section 11). Nothing else decides: not the batch, not the workers, not where a run was resumed.

Sets of shards that have to be fetched are shuffled by shards: the permutation of an epoch is then one of the shards,
and within windows of a few of them one of their pictures.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
from collections.abc import Generator, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spherectl.data.pictures import PictureSet, Read
from spherectl.data.remote import WINDOW
from spherectl.data.streamed import Ahead, RemotePictures
from spherectl.errors import SpherectlError, UsageError
from spherectl.model import seeding

# Workers read pieces of a batch: all of them work on the next one, and shared memory (64 MB in a plain container) holds
# two pieces a worker instead of two batches.
_LARGEST_PIECE = 32
_MOST_WORKERS = 8


class Batch(NamedTuple):
    """What one step trains on, or this process's share of it."""

    images: Tensor  # (B, 3, S, S) uint8
    labels: Tensor  # (B,) int64
    first_image: int  # images of the run before this batch, over all processes
    unreadable: tuple[str, ...] = ()  # pictures that cannot be read, and for which others stand


def training_batches(
    pictures: PictureSet,
    *,
    seed: int,
    batch_size: int,
    start_image: int = 0,
    flip: bool = True,
    workers: int | Literal["auto"] = "auto",
    share: tuple[int, int] | None = None,
) -> Generator[Batch]:
    """Endless batches of images start_image, start_image + 1, ... of the run.

    A picture that cannot be read is replaced by the next that can (`PictureSet.read`) and named in `unreadable`.

    Args:
        pictures: the training set.
        seed: the run's 64-bit seed.
        batch_size: B, over all processes.
        start_image: images that the run has already seen; need not be a multiple of B.
        flip: mirror half of the images left to right.
        workers: processes that decode ahead; "auto": one a core, at most 8. Sets in memory need none and start none.
        share: begin and end of this process's part of each batch, 0 <= begin < end <= B; None: all of it.

    Yields:
        Batches in order. Closing the iterator ends the workers.

    Raises:
        UsageError: the set is empty, or a number is out of range.
        FileError: from the iterator, when too many pictures in a row cannot be read.
        SpherectlError: from the iterator, when a worker process is killed or a shard cannot be fetched.
    """
    if len(pictures) == 0:
        raise UsageError(f"The set {pictures.name} ({pictures.root}) has no pictures to train on.")
    if batch_size < 1 or start_image < 0:
        raise UsageError(f"Expected a batch of at least 1 and a start of at least 0, got {batch_size}, {start_image}.")
    begin, end = share or (0, batch_size)
    if not 0 <= begin < end <= batch_size:
        raise UsageError(f"Expected a share of the images 0 to {batch_size} of a batch, got {begin} to {end}.")
    order = _Order(seed, pictures, start_image, batch_size, (begin, end), _worker_count(workers, pictures))
    return _batches(pictures, order, flip)


def picture_numbers(seed: int, first: int, count: int, n: int, shards: tuple[int, ...] = ()) -> Tensor:
    """Which of n pictures images first ... first + count - 1 of a run are: (count,) int64.

    Args:
        seed: the run's seed.
        first: images before them.
        count: how many.
        n: pictures in the set.
        shards: pictures in each shard, summing to n, where the order keeps to shards.
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
    """(n,) numbers of pictures; by shards: round 0 permutes these, round 1 + w the pictures of the w-th window."""
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
    """Endless lists of picture numbers, a piece of a share of a batch each; the last piece of one may be shorter."""

    def __init__(
        self, seed: int, pictures: PictureSet, start: int, batch_size: int, share: tuple[int, int], workers: int
    ) -> None:
        self.seed, self.start, self.batch_size, self.workers = seed, start, batch_size, workers
        self._n, self._shards = len(pictures), pictures.shard_counts
        self.begin, self.end = share
        size = self.end - self.begin
        piece = min(-(-size // workers), _LARGEST_PIECE) if workers else size
        self._pieces = [(at, min(piece, self.end - at)) for at in range(self.begin, self.end, piece)]
        self.pieces_per_batch = len(self._pieces)

    def __iter__(self) -> Iterator[list[int]]:
        for first in itertools.count(self.start, self.batch_size):
            for at, length in self._pieces:
                yield self.numbers(first + at, length).tolist()

    def numbers(self, first: int, count: int) -> Tensor:
        return picture_numbers(self.seed, first, count, self._n, self._shards)


def _batches(pictures: PictureSet, order: _Order, flip: bool) -> Generator[Batch]:
    pieces = _read_ahead(pictures, order) if order.workers else map(pictures.read, order)
    with contextlib.ExitStack() as stack:
        ahead = None
        for first in itertools.count(order.start, order.batch_size):
            read = [next(pieces) for _ in range(order.pieces_per_batch)]
            images = torch.cat([piece.images for piece in read])  # (B, 3, S, S)
            if flip:
                turned = mirrored(order.seed, first + order.begin, len(images))
                images[turned] = images[turned].flip(-1)
            labels = torch.cat([piece.labels for piece in read])
            if isinstance(pictures, RemotePictures):
                if ahead is None:  # only now: a thread would not survive the forks of the workers
                    ahead = stack.enter_context(contextlib.closing(Ahead(pictures)))
                ahead.expect(order.numbers(first + order.batch_size, WINDOW * max(pictures.shard_counts)))
            yield Batch(images, labels, first, tuple(name for piece in read for name in piece.unreadable))


class _Reader(Dataset["Read | SpherectlError"]):
    """Pieces for worker processes. Errors travel as values: the loader would turn them into a page of traceback."""

    def __init__(self, pictures: PictureSet) -> None:
        self._pictures = pictures

    def __getitems__(self, numbers: list[int]) -> Read | SpherectlError:
        try:
            return self._pictures.read(numbers)
        except SpherectlError as error:
            return error


def _read_ahead(pictures: PictureSet, order: _Order) -> Iterator[Read]:
    loader = DataLoader(
        _Reader(pictures),
        batch_sampler=order,
        num_workers=order.workers,
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
    """Ctrl-C, SIGTERM and Slurm's warning reach all processes; the loop still wants its batch before it saves."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):  # Windows has no SIGUSR1
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _worker_count(workers: int | Literal["auto"], pictures: PictureSet) -> int:
    if pictures.in_memory:
        return 0
    if workers != "auto":
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS)

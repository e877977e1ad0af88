"""Processes that decode images ahead of a training.

Their images come through shared memory where there is room for them, else through pipes. A signal to stop is heard
while images are waited for, and a process that dies or hangs keeps nobody waiting.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spherectl.data.image_set import ImageSet, Read
from spherectl.errors import SpherectlError

_AUTO_WORKERS = 8
_PATIENCE_S = 1  # of waiting for images, between two questions whether to stop


class _Piece(NamedTuple):
    """A `Read` on its way from a worker process."""

    images: Tensor | npt.NDArray[np.uint8]  # in shared memory, or, where that is full, to go through a pipe
    labels: list[int]
    unreadable: tuple[str, ...]


class _Reader(Dataset["_Piece | SpherectlError"]):
    """Pieces for worker processes. Errors travel as values: the loader would turn them into a page of traceback."""

    def __init__(self, dataset: ImageSet, *, shares: bool) -> None:
        self._images, self._shares = dataset, shares

    def __getitems__(self, numbers: list[int]) -> _Piece | SpherectlError:
        try:
            read = self._images.read(numbers)
        except SpherectlError as error:
            return error
        return _Piece(self._ready(read.images), read.labels.tolist(), read.unreadable)

    def _ready(self, images: Tensor) -> Tensor | npt.NDArray[np.uint8]:
        """The images in shared memory, or as an array, which goes through a pipe for three times the CPU time.

        The loader, which would share them later, loses what finds no room there, and waits for it for ever.
        """
        if self._shares:
            try:
                images.share_memory_()
            except RuntimeError:  # torch's word for no room; it leaves a name without bytes there, so once is enough
                self._shares = False
        return images if self._shares else images.numpy()


def _shared_memory_holds(images: int, image_size: int) -> bool:
    """Whether shared memory (64 MB in a plain container) has room for so many images of each process here."""
    needed = images * 3 * image_size**2 * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        found = os.statvfs("/dev/shm")  # noqa: S108 - where Linux has it
    except (OSError, AttributeError):  # another system, which has its own bounds
        return True
    return needed <= found.f_bavail * found.f_frsize


def read_ahead(
    dataset: ImageSet,
    numbers: Iterable[list[int]],
    *,
    workers: int,
    length: int,
    held: int,
    should_stop: Callable[[], bool],
) -> Iterator[Read | None]:
    """The images of those numbers, list by list, decoded by processes, two lists a process ahead.

    Args:
        dataset: the set.
        numbers: lists of them, without end.
        workers: how many processes, at least 1.
        length: images of the longest list.
        held: images that the caller keeps while he asks for more.
        should_stop: asked after each second of waiting.

    Yields:
        Each list's images; None where they are waited for and `should_stop` says True. Closing ends the processes.

    Raises:
        SpherectlError: what reading raised, or a process was killed or cannot be started.
    """
    reader = _Reader(dataset, shares=_shared_memory_holds(2 * workers * length + held, dataset.image_size))
    others, ours, pieces = set(multiprocessing.active_children()), set(), None
    try:
        pieces = _started(reader, numbers, workers)
        ours = set(multiprocessing.active_children()) - others
        while True:
            try:
                piece: _Piece | SpherectlError = next(pieces)
            except RuntimeError as error:
                if not str(error).startswith("DataLoader timed out"):
                    raise
                if should_stop():  # else wait on: images may be long in coming, and a worker's end is another error
                    yield None
                continue
            if isinstance(piece, SpherectlError):
                raise piece
            yield Read(torch.as_tensor(piece.images), torch.tensor(piece.labels), piece.unreadable)
    except SpherectlError:
        raise
    except (RuntimeError, OSError, EOFError) as error:
        # The loader's own word for a dead worker, or what comes of asking one for the memory that it shared.
        if str(error).startswith("Caught "):  # an exception in a living worker: a mistake in the program
            raise
        raise _lost_worker(error, begun=bool(ours)) from None
    finally:
        pieces = None  # ends the workers, or waits seconds for those that hang
        for worker in ours:
            worker.kill()


def _started(reader: _Reader, numbers: Iterable[list[int]], workers: int) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of more workers than cores, which somebody asked for
        return iter(
            DataLoader(
                reader,
                batch_sampler=numbers,
                num_workers=workers,
                collate_fn=_as_read,
                timeout=_PATIENCE_S,
                worker_init_fn=_leave_signals_to_parent,
                generator=torch.Generator(),  # else it would draw from, and so change, the process's global generator
            )
        )


def lost_worker(error: RuntimeError) -> SpherectlError | None:
    """What an error means that the loader's handler of signals raised in the midst of something else; None: another's.

    It does so when a worker process is killed, in the main thread, wherever that is.
    """
    return _lost_worker(error) if str(error).startswith("DataLoader worker (pid") else None


def _lost_worker(error: Exception, *, begun: bool = True) -> SpherectlError:
    what = "A process that reads images was killed" if begun else "Cannot start processes that read images"
    return SpherectlError(
        f"{what} ({' '.join(str(error).split()).rstrip('.')}).",
        "Usually memory ran out: --set data.workers=0 reads without processes. What was saved stays.",
    )


def _as_read(piece: Any) -> Any:
    return piece


def _leave_signals_to_parent(_worker: int) -> None:
    """Ctrl-C, SIGTERM, a closed terminal's and Slurm's warning reach all processes; the loop still wants its batch."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):  # Windows lacks the last two
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def worker_count(workers: int | Literal["auto"], dataset: ImageSet) -> int:
    """How many processes: none for a set in memory; "auto": one a core, at most 8."""
    if dataset.in_memory:
        return 0
    if workers != "auto":
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _AUTO_WORKERS)

"""Saving while training goes on: tensors are copied at once, a thread writes the copies.

In several processes each writes a shard. The folder gets its name once all have said, in the sum that ends every step
anyway, that their shards are there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from spherectl.processes import Processes
from spherectl.training import checkpoint
from spherectl.training.checkpoint import Counts, Piece


class Saver:
    """Writes one checkpoint at a time.

    Args:
        folder: of the run's checkpoints.
        processes: those that train together.
        publish: called by the first process, in the thread, with each checkpoint that is whole.
    """

    def __init__(self, folder: Path, processes: Processes, publish: Callable[[Path, Counts], None]) -> None:
        self._folder, self._processes, self._publish = folder, processes, publish
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None  # this process's shard
        self._naming: Future[None] | None = None  # what follows when all shards are there
        self._counts = Counts()

    def begin(self, pieces: dict[str, Piece], counts: Counts) -> None:
        """Copy what this process writes and leave the rest to the thread; waits for the checkpoint before.

        Args:
            pieces: the training's state (`checkpoint.state`).
            counts: where it is.
        """
        self.finish()
        self._counts = replace(counts)
        path = checkpoint.checkpoint_path(self._folder, counts.images_seen)
        copies = checkpoint.copied(checkpoint.own(pieces, self._processes))
        self._writing = self._thread.submit(checkpoint.write_shard, path, copies, self._processes)
        if self._processes.world == 1:
            self.proceed(all_written=True)

    @property
    def written(self) -> bool:
        """Whether this process has nothing left to write."""
        return self._writing is None or self._writing.done()

    def proceed(self, all_written: bool) -> None:
        """Name a checkpoint whose shards are all there; call it after every step, with what all processes said.

        Raises:
            FileError: something could not be written.
        """
        if self._naming is not None and self._naming.done():
            self._naming.result()
        if self._writing is None or not all_written:
            return
        writing, self._writing = self._writing, None
        if self._processes.is_first:
            self._naming = self._thread.submit(self._name, writing, self._counts)
        else:
            writing.result()

    def finish(self) -> None:
        """Wait until nothing is left to do; all processes call it together.

        Raises:
            FileError: something could not be written.
        """
        if self._writing is not None:
            self._writing.result()
            self._processes.wait()
            self.proceed(all_written=True)
        if self._naming is not None:
            naming, self._naming = self._naming, None
            naming.result()

    @contextlib.contextmanager
    def open(self) -> Iterator[Saver]:
        """End the thread after the body, whatever becomes of that."""
        with self._thread:
            yield self

    def _name(self, writing: Future[None], counts: Counts) -> None:
        writing.result()
        path = checkpoint.checkpoint_path(self._folder, counts.images_seen)
        checkpoint.commit(path, counts, self._processes.world)
        self._publish(path, counts)

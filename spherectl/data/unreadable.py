"""Images that cannot be read: a few are replaced, counted and named; over one in a hundred stops a training."""

from __future__ import annotations

from spherectl.errors import FileError

NAMED = 5  # of all that were met, so that the sentence stays one


def tolerated(n: int) -> int:
    """How many of n images may be unreadable: one in a hundred, so none of fewer than a hundred."""
    return n // 100


class Tally:
    """Counts the unreadable images that a training meets, epoch by epoch.

    An epoch reads each image once over all processes, so that what is counted depends on neither their number nor on
    workers. A batch counts in the epoch of its first image; while it reaches into further epochs as many images more
    are tolerated, as an image may then rightly be met twice. A resumed run counts from where it was resumed.

    Args:
        n: images in the set.
        batch_size: B, over all processes.
    """

    def __init__(self, n: int, batch_size: int) -> None:
        self._n, self._batch_size = n, batch_size
        self._epoch, self._count = 0, 0
        self._names: dict[str, None] = {}  # a set that keeps its order

    @property
    def names(self) -> tuple[str, ...]:
        """All that this process has met, each once, in the order of their first meeting."""
        return tuple(self._names)

    def add(self, first_image: int, names_here: tuple[str, ...], count_everywhere: int) -> None:
        """Count one batch.

        Args:
            first_image: images of the run before the batch.
            names_here: the unreadable images of this process's share of it.
            count_everywhere: how many the batch has over all processes.

        Raises:
            FileError: over 1% of the images are unreadable; it names some of those met by this process.
        """
        self._names.update(dict.fromkeys(names_here))
        epoch, last = first_image // self._n, (first_image + self._batch_size - 1) // self._n
        if epoch != self._epoch:
            self._epoch, self._count = epoch, 0
        self._count += count_everywhere
        if self._count > tolerated(self._n) * (last - epoch + 1):
            raise FileError(
                f"{self._count} images of one epoch of {self._n:,} cannot be read, which is over 1%: {self._some()}.",
                "Repair them or put others under their names, then run the same command again.",
            )

    def _some(self) -> str:
        names = self.names
        if not names:
            return "other processes have met them and name them"
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return ", ".join(names[:NAMED]) + more

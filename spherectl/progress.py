"""How work that takes a while says how far it is: one callback for downloads, trainings and measurements alike."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called now and then while work goes on; it may be called from any thread.

    Example:
        >>> def show(done: int, total: int, note: str = "") -> None:
        ...     print(f"{done} of {total} {note}".rstrip())
        >>> progress: Progress = show
        >>> progress(3, 10, "real images")
        3 of 10 real images
    """

    def __call__(self, done: int, total: int, note: str = "", /) -> None:
        """Say how far the work is.

        Args:
            done: bytes, images or other items done so far.
            total: of the same in all; 0 where that is not known.
            note: a word on how it goes, or which part it is.
        """


def part_of(progress: Progress | None, before: int, total: int | None, note: str = "") -> Progress | None:
    """The callback for one part of some work, which counts from 0.

    Args:
        progress: of the whole; None: nobody listens.
        before: items of the whole that were done before this part.
        total: items of the whole; None or 0 where it is not known: then the part is the last one.
        note: which part this is.
    """
    if progress is None:
        return None

    def tell(done: int, of_part: int, part: str = "", /) -> None:
        progress(before + done, total or before + of_part, ": ".join(filter(None, (note, part))))

    return tell

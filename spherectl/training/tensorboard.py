"""TensorBoard, a logger of trainings (`training.loggers`)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spherectl.data.transforms import to_uint8
from spherectl.errors import FileError
from spherectl.training.checkpoint import Counts

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SCALARS_EVERY = 10  # steps


class TensorBoard:
    """Writes TensorBoard's files. Made by `opened`.

    Where they can no longer be written (a full disk, a folder that was removed), the training goes on without them.

    Args:
        writer: TensorBoard's own; None: nothing is shown.
        last_step: is shown whatever its number.
    """

    def __init__(self, writer: SummaryWriter | None, last_step: int) -> None:
        self._writer, self._last_step = writer, last_step

    def scalars(self, line: dict[str, float]) -> None:
        """A line of the metrics: shown on every tenth step and on the last.

        Args:
            line: by name; "step" says which step it is, and is not shown itself.
        """
        step = int(line["step"])
        if self._writer is None or (step % SCALARS_EVERY and step != self._last_step):
            return
        for name, value in line.items():
            if name != "step":
                self._show("add_scalar", name, value, step)

    def images(self, name: str, image: Tensor, counts: Counts) -> None:
        """An image, such as a grid: (3, H, W), uint8 or float in [0, 1], on any device."""
        if self._writer is not None:
            pixels = image if image.dtype == torch.uint8 else to_uint8(image)
            self._show("add_image", name, pixels.cpu(), counts.step)

    def _show(self, what: str, *arguments: Any) -> None:
        if self._writer is not None:
            try:
                getattr(self._writer, what)(*arguments)
            except OSError:
                self._writer = None


@contextlib.contextmanager
def opened(folder: Path, *, step: int, last_step: int) -> Iterator[TensorBoard]:
    """TensorBoard in a run folder.

    Args:
        folder: of the run; the files go into tensorboard/ in it.
        step: steps done before. What an earlier process showed of later ones, before it was killed, disappears.
        last_step: of the whole training.

    Raises:
        FileError: the folder cannot be written.
    """
    from torch.utils.tensorboard import SummaryWriter  # an optional extra

    folder /= "tensorboard"
    try:
        writer = SummaryWriter(folder, purge_step=step + 1)
    except OSError as error:
        raise FileError(f"Cannot write {folder}: {error.strerror or error}.", "Make room, or remove it.") from None
    with _quiet_threads():
        try:
            yield TensorBoard(writer, last_step)
        finally:
            with contextlib.suppress(OSError):
                writer.close()


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
    """What a thread of TensorBoard's raises is not printed: the next call to the writer raises it again."""
    earlier = threading.excepthook

    def told(args: threading.ExceptHookArgs) -> None:
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
            earlier(args)

    threading.excepthook = told
    try:
        yield
    finally:
        threading.excepthook = earlier

"""Where a training shows its curves and images: the run folder's own files, and the loggers of `spherectl.registry`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from torch import Tensor

from spherectl.errors import UsageError
from spherectl.recipe import Recipe
from spherectl.registry import LOGGERS
from spherectl.training.checkpoint import Counts


class Logger(Protocol):
    """What `LoggerKind.open` gives. A training does not end because a logger can no longer write."""

    def scalars(self, line: dict[str, float]) -> None:
        """Take one line of the metrics: numbers by name, "step" and "images_seen" among them. Called in every step."""

    def images(self, name: str, image: Tensor, counts: Counts) -> None:
        """Take an image, such as a grid of samples.

        Args:
            name: of the series that it belongs to.
            image: (3, H, W), uint8 or float in [0, 1], on any device.
            counts: the step after which it was made, and the images seen by then.
        """


@contextlib.contextmanager
def opened(recipe: Recipe, folder: Path, *, step: int, last_step: int) -> Iterator[list[Logger]]:
    """The loggers of a recipe's `run.loggers`; without it, all that are installed.

    Args:
        recipe: which.
        folder: of the run.
        step: steps done before; what an earlier process showed of later ones is to disappear.
        last_step: of the whole training.

    Raises:
        UsageError: one that the recipe names is not installed.
        FileError: a logger cannot write.
    """
    named = recipe.run.loggers
    wanted = (
        [LOGGERS[name] for name in named] if named is not None else [one for one in LOGGERS.values() if one.installed]
    )
    for logger in wanted:
        if not logger.installed:
            raise UsageError(
                f"run.loggers: {logger.name} needs the package {logger.module}, which is not installed.",
                f"Install it with {logger.install}, or leave it out.",
            )
    with contextlib.ExitStack() as held:
        yield [held.enter_context(one.open(folder, step=step, last_step=last_step)) for one in wanted]

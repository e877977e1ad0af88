"""The posterior hole as a figure: four columns of images for each model, the Frechet distance above each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spherectl.evaluation.posterior import ColumnName, Hole
from spherectl.images import grid
from spherectl.plots.figures import STYLE, check_target, save

HEADS: dict[ColumnName, str] = {
    "input": "\ninput",
    "reconstruction": "\nreconstruction",
    "prior": "\nprior sample",
    "fitted": "fitted-posterior\nsample",
}
COLUMN_INCHES = 1.1


def plot_posterior_hole(holes: Sequence[Hole], path: Path, *, rows: int = 8, distance: str = "Frechet") -> None:
    """Plot the first images of each column.

    Args:
        holes: one a model.
        path: .png, .svg or .pdf; replaced.
        rows: images of each column, which follow the classes in turn.
        distance: what the Frechet distance is called.

    Raises:
        UsageError: as `check_target`.
        FileError: the place cannot be written.
    """
    check_target(path)
    import matplotlib.style
    from matplotlib.figure import Figure

    shown = min(rows, *(len(column.pixels) for hole in holes for column in hole.columns))
    width = sum(len(hole.columns) for hole in holes) * COLUMN_INCHES
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(width, shown * COLUMN_INCHES * 0.92 + 1.1), layout="constrained")
        parts = figure.subfigures(1, len(holes), squeeze=False)[0]
        for part, hole in zip(parts, holes, strict=True):
            part.suptitle(hole.model, fontsize="large")
            for axes, column in zip(part.subplots(1, len(hole.columns)), hole.columns, strict=True):
                image = grid(column.pixels[:shown], columns=1).permute(1, 2, 0).numpy()  # (H, W, 3)
                axes.imshow(image, interpolation="nearest")
                axes.set_title(f"{HEADS[column.name]}\n{distance} {column.frechet_distance:.3g}", fontsize="small")
                axes.set_axis_off()
        save(figure, path)

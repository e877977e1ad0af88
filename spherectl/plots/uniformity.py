"""How evenly points lie on a sphere, as an image and as a page that turns it: always the same four panels.

Each panel shows points on the sphere in three dimensions, from the front; those on the far side are faint.
"""

from __future__ import annotations

import html
import importlib.resources
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spherectl.evaluation.directions import MEASURES
from spherectl.evaluation.projection import Cloud
from spherectl.evaluation.uniformity import Uniformity, UniformityByClass, cells
from spherectl.files import write_text
from spherectl.plots.figures import COLOURS, STYLE, check_target, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CLASSES = 10  # that get a place of their own
CLASS_COLOURS = (*COLOURS, "#F0E442", "#999999", "#8B4513")  # on white, in groups, yellow can be seen
PANEL_INCHES = 1.25
Rows = list[dict[str, str]]


def plot_uniformity(clouds: Sequence[Cloud], class_names: Sequence[str], path: Path) -> None:
    """Plot the four panels, each in all and class by class.

    Args:
        clouds: from `projection.clouds`.
        class_names: by label; of many, the first ten have places of their own.
        path: .png, .svg or .pdf; replaced.

    Raises:
        UsageError: as `check_target`.
        FileError: the place cannot be written.
    """
    check_target(path)
    import matplotlib.style
    from matplotlib.figure import Figure

    names = list(class_names)[:MAX_CLASSES]
    across = 1 + len(names)
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(
            figsize=((across + 1.4) * PANEL_INCHES, len(clouds) * PANEL_INCHES * 1.12), layout="constrained"
        )
        panels = figure.subplots(len(clouds), across + 1, squeeze=False, width_ratios=[1.4, *[1] * across])
        for row, cloud in zip(panels, clouds, strict=True):
            row[0].set_axis_off()
            row[0].text(0, 0.5, _caption(cloud), va="center", fontsize="small", wrap=True)
            for place, axes in enumerate(row[1:]):
                chosen = torch.ones_like(cloud.labels, dtype=torch.bool) if place == 0 else cloud.labels == place - 1
                _plot(axes, None if cloud.projected is None else cloud.projected[chosen], cloud.labels[chosen])
        for axes, name in zip(panels[0][1:], ["all", *names], strict=True):
            axes.set_title(name, fontsize="small")
        save(figure, path)


def write_page(
    clouds: Sequence[Cloud],
    class_names: Sequence[str],
    path: Path,
    *,
    about: str,
    training: Sequence[tuple[int, UniformityByClass]] = (),
) -> None:
    """Write the figure as one page that needs nothing else: points are turned by dragging, classes are chosen.

    Args:
        clouds, class_names: as for `plot_uniformity`.
        path: .html; replaced.
        about: a sentence on what was done.
        training: the numbers at points of the training.

    Raises:
        FileError: the place cannot be written.
    """
    data = {
        "classes": list(class_names),
        "colours": CLASS_COLOURS,
        "clouds": [
            {
                "title": cloud.title,
                "points": [] if cloud.projected is None else (cloud.projected * 1000).round().int().flatten().tolist(),
                "labels": cloud.labels.tolist(),
            }
            for cloud in clouds
        ],
    }
    tables = _html_table(panel_rows(clouds)) + (_html_table(training_rows(training)) if training else "")
    # A closing tag inside of a name must not end the script that holds it.
    embedded = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    page = importlib.resources.files("spherectl.plots").joinpath("uniformity.html").read_text(encoding="utf-8")
    for mark, text in (("%ABOUT%", html.escape(about)), ("%TABLES%", tables), ("%DATA%", embedded)):
        page = page.replace(mark, text)
    write_text(path, page)


def panel_rows(clouds: Sequence[Cloud]) -> Rows:
    """The numbers of each panel in all, beside what uniform points give: a row each, but for panels without points."""
    return [{"points": cloud.title, **_cells(cloud.measured.overall)} for cloud in clouds if cloud.measured is not None]


def training_rows(training: Sequence[tuple[int, UniformityByClass]]) -> Rows:
    """The same at points of a training, by images seen."""
    return [{"images seen": f"{images:,}", **_cells(measured.overall)} for images, measured in training]


def numbers(measured: UniformityByClass) -> dict[str, Any]:
    """All measures in all and by class, JSON-able."""
    return {
        name: {"count": one.count, "dimension": one.dimension} | {key: vars(getattr(one, key)) for key in MEASURES}
        for name, one in (("all", measured.overall), *measured.classes)
    }


def _cells(found: Uniformity) -> dict[str, str]:
    return {"n": f"{found.count:,}", "L": f"{found.dimension:,}"} | cells(found)


def _caption(cloud: Cloud) -> str:
    if cloud.measured is None:
        return cloud.title
    found = cloud.measured.overall
    rank = found.effective_rank.value * found.dimension
    uniform = found.effective_rank.expected * found.dimension
    return (
        f"{cloud.title}\nL = {found.dimension:,}\nrank {rank:.3g} (uniform {uniform:.3g})\n"
        f"pull {found.mean_direction.value:.3g} (uniform 1)"
    )


def _plot(axes: Axes, points: Tensor | None, labels: Tensor) -> None:
    """One sphere from the front: its outline, far points faint, near points strong."""
    from matplotlib.patches import Circle

    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_xlim(-1.05, 1.05)
    axes.set_ylim(-1.05, 1.05)
    axes.add_patch(Circle((0, 0), 1, fill=False, color="#bbbbbb", linewidth=0.6))
    if points is None:
        return
    colours = [CLASS_COLOURS[label % len(CLASS_COLOURS)] for label in labels.tolist()]
    front = points[:, 2] > 0
    size = min(6.0, max(1.5, 1500 / max(len(points), 1)))  # fewer are larger
    for chosen, alpha in ((~front, 0.25), (front, 0.85)):
        shown = [colour for colour, one in zip(colours, chosen.tolist(), strict=True) if one]
        axes.scatter(points[chosen, 0], points[chosen, 1], s=size, c=shown, alpha=alpha, linewidths=0)


def _html_table(rows: Rows) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row.values())}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"

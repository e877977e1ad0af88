"""The curves of trainings, side by side; the same numbers give the same bytes.

Letters: n lines of a run's metrics.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spherectl.errors import FileError
from spherectl.plots.curves import Curves, Numbers
from spherectl.plots.figures import COLOURS, STYLE, check_target, save
from spherectl.shown import listed, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Axis = Literal["images", "hours", "steps"]

DASHES = ("-", "--", ":")  # one after another, where there are more runs than colours

PANEL_INCHES = (3.4, 2.4)
LEGEND_ROW_INCHES = 0.25
MAX_POINTS = 2000  # of a line; more would show no more, and make an SVG of megabytes
DEEPEST = 0.01
SMOOTHED_SHARE = 50  # unless it is said, the mean is over a fiftieth of the longest run


class Panel(NamedTuple):
    """One place of the figure: a key of the metrics, what it is, how its axis runs."""

    key: str
    title: str
    scale: Literal["log", "linear", "percent"] = "log"


PANELS = (
    Panel("loss", "loss, the sum of its parts"),
    Panel("loss_rec", "reconstruction, pixels"),
    Panel("loss_rec_perc", "reconstruction, perceptual"),
    Panel("loss_con", "consistency, pixels"),
    Panel("loss_con_perc", "consistency, perceptual"),
    Panel("loss_lat", "consistency, latents"),
    Panel("loss_centre", "cosine within a class", "linear"),
    Panel("loss_kl", "divergence of a VAE's posteriors"),
    Panel("grad_norm", "gradient norm, before clipping"),
    Panel("lr", "learning rate", "linear"),
    Panel("latent_norm", "norm of latents, before f", "linear"),
    Panel("effective_rank", "effective rank of a batch's latents", "linear"),
    Panel("images_per_s", "images a second", "linear"),
    Panel("mfu", "share of the device's peak", "percent"),
)


def plot_training(runs: Sequence[Curves], path: Path, *, x: Axis = "images", smooth: int | None = None) -> None:
    """Plot trainings together, a panel for each number that any of them has: raw lines faint, means over them strong.

    Args:
        runs: at least one.
        path: .png, .svg or .pdf; replaced.
        x: what the panels run along: images seen, hours of training, or steps.
        smooth: steps that a mean is over, centred; None: a fiftieth of the longest run; 1: none.

    Raises:
        UsageError: as `check_target`.
        FileError: no run has anything to plot, or the place cannot be written.
    """
    check_target(path)
    import matplotlib.style
    from matplotlib.figure import Figure

    window = smooth or max(1, round(max(map(len, runs)) / SMOOTHED_SHARE))
    panels = [panel for panel in PANELS if any(np.any(_finite(run, panel.key)) for run in runs)]
    if not panels:
        raise FileError(f"There is nothing to plot in {listed(run.name for run in runs)}: no line has a loss or rate.")
    wide = _columns(len(panels))
    high = -(-len(panels) // wide)
    legend_rows = -(-len(runs) // wide)
    size = (wide * PANEL_INCHES[0], high * PANEL_INCHES[1] + legend_rows * LEGEND_ROW_INCHES + 0.4)
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=size, layout="constrained")
        for place, panel in enumerate(panels):
            strong = _plot(figure.add_subplot(high, wide, place + 1), panel, runs, x, window)
        names = [printable(run.name) for run in runs]
        figure.legend(strong, names, loc="outside upper center", ncols=min(wide, len(runs)), frameon=False)
        figure.supxlabel(_along(x, window), fontsize="medium")
        save(figure, path)


def moving_mean(values: Numbers, window: int) -> Numbers:
    """Means (n,) over a window around each of the values (n,), as far as it reaches at the ends."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    starts = np.arange(len(values)) - (window - 1) // 2
    first, end = starts.clip(min=0), (starts + window).clip(max=len(values))
    return np.asarray((sums[end] - sums[first]) / (end - first), dtype=np.float64)


def thinned(values: Numbers, most: int) -> NDArray[np.intp]:
    """Places of at most about `most` values that look as all do: the least and the greatest of even stretches."""
    if len(values) <= most:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), most // 2 + 1).astype(int)
    stretches = itertools.pairwise(edges.tolist())
    ends = [(a + values[a:b].argmin(), a + values[a:b].argmax()) for a, b in stretches]
    return np.unique([0, *itertools.chain.from_iterable(ends), len(values) - 1])


def _finite(run: Curves, key: str) -> Numbers:
    """The values of a key that are numbers; none where the run has no such key."""
    column = run.columns.get(key, np.empty(0))
    return column[np.isfinite(column)]


def _columns(panels: int) -> int:
    """Three panels side by side or four, whichever leaves fewer places empty."""
    return min(panels, min((4, 3), key=lambda columns: -panels % columns))


def _plot(axes: Axes, panel: Panel, runs: Sequence[Curves], x: Axis, window: int) -> list[Line2D]:
    """One panel; returns the strong line of each run."""
    strong = []
    for number, run in enumerate(runs):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        column = run.columns.get(panel.key, np.full(len(run), math.nan))
        there = np.isfinite(column)
        values, along = column[there], _positions(run, x)[there]
        # What is written on every tenth step alone is averaged over as many steps.
        mean = moving_mean(values, max(1, round(window * len(values) / len(run))))
        if window > 1:
            raw = thinned(values, MAX_POINTS)
            axes.plot(along[raw], values[raw], color=colour, alpha=0.35, linewidth=0.6)
        kept = thinned(mean, MAX_POINTS)
        marker = "o" if len(values) == 1 else None
        strong += axes.plot(along[kept], mean[kept], dash, color=colour, linewidth=1.4, marker=marker)
    _set_axes(axes, panel, [_finite(run, panel.key) for run in runs], x)
    return strong


def _set_axes(axes: Axes, panel: Panel, plotted: Sequence[Numbers], x: Axis) -> None:
    """Title, limits and ticks of a panel that has its lines."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

    axes.set_title(panel.title)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if x != "hours":  # of which 4m would be read as minutes
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if panel.scale == "log" and np.any(np.concatenate(plotted) > 0):  # else there is nothing that a logarithm shows
        _set_log(axes, plotted)
    elif np.all(np.concatenate(plotted) >= 0):
        axes.set_ylim(bottom=0)
    percent = panel.scale == "percent"
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%" if percent else f"{value:g}"))


def _set_log(axes: Axes, plotted: Sequence[Numbers]) -> None:
    """A logarithmic axis, of round numbers where it is short.

    It reaches at most `DEEPEST` below what the later half of each run has. Consistency starts at nearly nothing, while
    the networks give one grey for all, and would press all that comes after to the top.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    axes.set_yscale("log")
    every, later = np.concatenate(plotted), np.concatenate([values[len(values) // 2 :] for values in plotted])
    if np.any(later > 0):
        deepest = DEEPEST * later[later > 0].min()
        if every[every > 0].min() < deepest:
            axes.set_ylim(bottom=deepest)
    low, high = axes.get_ylim()
    if high < 5 * low:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    else:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,), numticks=8))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _positions(run: Curves, x: Axis) -> Numbers:
    """Where the lines of a run lie along the panels."""
    key, unit = {"images": ("images_seen", 1), "hours": ("wall_s", 3600), "steps": ("step", 1)}[x]
    return np.asarray(run.columns.get(key, np.full(len(run), math.nan)) / unit, dtype=np.float64)


def _along(x: Axis, window: int) -> str:
    """What the panels run along, and what the strong lines are."""
    what = {"images": "images seen", "hours": "hours of training", "steps": "steps"}[x]
    return what if window == 1 else f"{what}; strong lines are means over {window:,} steps"

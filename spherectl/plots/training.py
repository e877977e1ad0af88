"""The curves of trainings, side by side; the same numbers give the same bytes.

Letters: n lines of a run's metrics.
"""

from __future__ import annotations

import itertools
import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.files import expanded, open_regular
from spherectl.plots.figures import COLOURS, STYLE, check_target, save
from spherectl.shown import listed, printable, quoted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Numbers = NDArray[np.float64]
Axis = Literal["images", "hours", "steps"]

METRICS = "metrics.jsonl"

# Of a run's metrics, which may be a stranger's.
MAX_LINE = 100_000  # bytes; ours have about 500
MAX_LINES = 20_000_000  # one is written every step
MAX_KEYS = 100  # ours have about 20
MAX_NUMBER = 1e100  # squares and sums of larger ones are none

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


@dataclass(frozen=True, eq=False)
class Curves:
    """The metrics of one run.

    Attributes:
        name: in the legend.
        columns: by key, (n,) float64; NaN where a line lacks the key.
    """

    name: str
    columns: dict[str, Numbers]

    def __len__(self) -> int:
        return len(self.columns["step"])


def find_run(text: str, runs: Path) -> Path:
    """The run folder that a command means: a path, or a name in the folder of runs.

    Raises:
        UsageError: there is no such folder.
    """
    for folder in (expanded(text), runs / text):
        if folder.is_dir():
            return folder
    known = sorted(path.parent.name for path in runs.glob(f"*/{METRICS}"))
    hint = f"Those in {runs}: {listed(known)}." if known else f"There is none in {runs} either; train one first."
    raise UsageError(f"There is no run folder {quoted(text)}.", hint)


def read_curves(folders: Sequence[Path]) -> list[Curves]:
    """The metrics of runs, each named after its folder, or after its path where two folders have one name.

    Raises:
        FileError: a run has no metrics yet, or they cannot be read.
    """
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return [Curves(name, read_metrics(folder)) for name, folder in zip(names, folders, strict=True)]


def read_metrics(run: Path) -> dict[str, Numbers]:
    """The columns of a run's metrics: by key (n,) float64, NaN where a line lacks the key.

    A last line without its end, as a training leaves it that is writing or was killed, does not count.

    Raises:
        FileError: there are none yet, or a line is no JSON table of numbers with a step.
    """
    path = run / METRICS
    columns: dict[str, array[float]] = {}
    count = 0
    try:
        with open_regular(path) as file:
            while (line := file.readline(MAX_LINE)).endswith(b"\n"):
                if count == MAX_LINES:
                    raise FileError(f"{path} has more than {MAX_LINES:,} lines, which no training writes.")
                _append(columns, count, line, path)
                count += 1
            if len(line) == MAX_LINE:
                raise FileError(f"{path}: line {count + 1:,} has more than {MAX_LINE:,} bytes; the file is damaged.")
    except SpherectlError:
        raise
    except FileNotFoundError:
        pass
    except OSError as error:
        raise FileError(f"Cannot read {path}: {error.strerror}.") from None
    if not count:
        raise FileError(f"{run} has no metrics yet.", "A training writes its first line after its first step.")
    for column in columns.values():
        _pad(column, count)
    return {key: np.frombuffer(column) for key, column in columns.items()}


def plot_training(runs: Sequence[Curves], path: Path, *, x: Axis = "images", smooth: int | None = None) -> None:
    """Draw trainings together, a panel for each number that any of them has: raw lines faint, means over them strong.

    Args:
        runs: at least one.
        path: .png, .svg or .pdf; replaced.
        x: what the panels run along: images seen, hours of training, or steps.
        smooth: steps that a mean is over, centred; None: a fiftieth of the longest run; 1: none.

    Raises:
        UsageError: as `check_target`.
        FileError: no run has anything to draw, or the place cannot be written.
    """
    check_target(path)
    import matplotlib.style
    from matplotlib.figure import Figure

    window = smooth or max(1, round(max(map(len, runs)) / SMOOTHED_SHARE))
    panels = [panel for panel in PANELS if any(np.any(_finite(run, panel.key)) for run in runs)]
    if not panels:
        raise FileError(f"There is nothing to draw in {listed(run.name for run in runs)}: no line has a loss or rate.")
    wide = _columns(len(panels))
    high = -(-len(panels) // wide)
    legend_rows = -(-len(runs) // wide)
    size = (wide * PANEL_INCHES[0], high * PANEL_INCHES[1] + legend_rows * LEGEND_ROW_INCHES + 0.4)
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=size, layout="constrained")
        for place, panel in enumerate(panels):
            strong = _draw(figure.add_subplot(high, wide, place + 1), panel, runs, x, window)
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
    """Places of at most about `most` values that draw as all do: the least and the greatest of even stretches."""
    if len(values) <= most:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), most // 2 + 1).astype(int)
    stretches = itertools.pairwise(edges.tolist())
    ends = [(a + values[a:b].argmin(), a + values[a:b].argmax()) for a, b in stretches]
    return np.unique([0, *itertools.chain.from_iterable(ends), len(values) - 1])


def _append(columns: dict[str, array[float]], count: int, line: bytes, path: Path) -> None:
    """Add one line to the columns, which hold `count`."""
    try:
        values = json.loads(line)  # which takes NaN too, as a training may write it
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or not all(map(_is_number, values.values())):
        values = {}
    if values.get("step") is None or len(columns.keys() | values.keys()) > MAX_KEYS:
        raise FileError(f"{path}: line {count + 1:,} is no line of metrics; the file is damaged.")
    for key, value in values.items():
        column = columns.setdefault(key, array("d"))
        if len(column) < count:
            _pad(column, count)
        column.append(math.nan if value is None else value)


def _is_number(value: Any) -> bool:
    if value is None:
        return True
    # An int may be larger than any float, so that it is compared before it becomes one.
    return type(value) in (int, float) and (
        abs(value) < MAX_NUMBER or value in (math.inf, -math.inf) or value != value  # noqa: PLR0124
    )


def _pad(column: array[float], count: int) -> None:
    column.extend([math.nan] * (count - len(column)))


def _finite(run: Curves, key: str) -> Numbers:
    """The values of a key that are numbers; none where the run has no such key."""
    column = run.columns.get(key, np.empty(0))
    return column[np.isfinite(column)]


def _columns(panels: int) -> int:
    """Three panels side by side or four, whichever leaves fewer places empty."""
    return min(panels, min((4, 3), key=lambda columns: -panels % columns))


def _draw(axes: Axes, panel: Panel, runs: Sequence[Curves], x: Axis, window: int) -> list[Line2D]:
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


def _set_axes(axes: Axes, panel: Panel, drawn: Sequence[Numbers], x: Axis) -> None:
    """Title, limits and ticks of a panel that has its lines."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

    axes.set_title(panel.title)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if x != "hours":  # of which 4m would be read as minutes
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if panel.scale == "log" and np.any(np.concatenate(drawn) > 0):  # else there is nothing that a logarithm shows
        _set_log(axes, drawn)
    elif np.all(np.concatenate(drawn) >= 0):
        axes.set_ylim(bottom=0)
    percent = panel.scale == "percent"
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%" if percent else f"{value:g}"))


def _set_log(axes: Axes, drawn: Sequence[Numbers]) -> None:
    """A logarithmic axis, of round numbers where it is short.

    It reaches at most `DEEPEST` below what the later half of each run has. Consistency starts at nearly nothing, while
    the networks draw one grey for all, and would press all that comes after to the top.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    axes.set_yscale("log")
    every, later = np.concatenate(drawn), np.concatenate([values[len(values) // 2 :] for values in drawn])
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

"""Whether a training of one's own goes as ours by the same recipe did: losses, window by window.

docs/reproduction.json has the losses of that training as means over windows of images, with the standard errors of
these means: the scatter of single steps about a straight line through the window, over the root of their number. The
same recipe from the same seed sees the same images, noise and classes in the same order, so what is left between two
trainings is rounding, and its growth.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.lines import read_lines
from benchmarks.speed import ROOT, command_line
from benchmarks.tables import Columns, Row, show, table
from benchmarks.timing import rounded
from spherectl import recipe as recipes
from spherectl.errors import SpherectlError, UsageError
from spherectl.files import write_text
from spherectl.training.run import Run

WINDOW = 10_000  # images
FIRST_IMAGES = 200_000  # that are compared
ALIKE = 3.0  # standard errors of a difference

PARTS = ("loss", "loss_rec", "loss_rec_perc", "loss_con", "loss_con_perc", "loss_lat", "loss_centre")

COMPARED: Columns = {
    "images": "images",
    "theirs": "committed",
    "ours": "this run",
    "difference_percent": "difference, %",
    "errors": "in standard errors",
}


def main() -> None:
    """Compare a run with the committed losses, or commit those of a run."""
    parser = argparse.ArgumentParser(prog="experiments.reproduction", description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a training of the same recipe")
    parser.add_argument("--write", action="store_true", help="make this run the one that others are compared with")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder; default docs")
    given = parser.parse_args()
    try:
        print(written(given) if given.write else told(given))
    except SpherectlError as error:
        sys.exit(f"error: {error}")


def written(given: Namespace) -> Path:
    """Write reproduction.json from a run; returns its path."""
    run = Run(given.run)
    recipe = recipes.load(run.recipe)
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command_line("experiments.reproduction"),
        "recipe": recipe.name,
        "seed": recipe.run.seed,
        "window_images": WINDOW,
        "windows": windows(read_lines(run.metrics)),
    }
    path: Path = given.out / "reproduction.json"
    write_text(path, json.dumps(document, indent=1) + "\n")
    return path


def told(given: Namespace) -> str:
    """The comparison of the first images, as a table and a sentence.

    Raises:
        UsageError: the run is another recipe's, or too short for one window.
    """
    expected = json.loads((given.out / "reproduction.json").read_text(encoding="utf-8"))
    run = Run(given.run)
    name = recipes.load(run.recipe).name
    if name != expected["recipe"]:
        raise UsageError(f"{given.run} is a training of {name}; the committed losses are of {expected['recipe']}.")
    rows = compare(windows(read_lines(run.metrics)), expected["windows"])
    if not rows:
        raise UsageError(f"{given.run} has not seen the first {WINDOW:,} images yet.")
    far = [row for row in rows if abs(row["errors"]) > ALIKE]
    verdict = "all" if not far else f"all but {len(far)}"
    shown = [{key: show(value) for key, value in row.items()} for row in rows]
    return f"{table(shown, COMPARED)}\n\n{verdict} of {len(rows)} windows lie within {ALIKE:g} standard errors."


def windows(lines: list[dict[str, float]]) -> list[Row]:
    """Means and their standard errors over each whole window of images: {"images", PART: [mean, error], ...}."""
    found: list[Row] = []
    ends = np.array([line["images_seen"] for line in lines])
    for stop in range(WINDOW, int(ends.max(initial=0)) + 1, WINDOW):
        inside = [line for line, end in zip(lines, ends, strict=True) if stop - WINDOW < end <= stop]
        row: Row = {"images": stop}
        for part in PARTS:
            mean, error = mean_and_error(np.array([line[part] for line in inside]))
            row[part] = [float(f"{mean:.6g}"), float(f"{error:.3g}")]
        found.append(row)
    return found


# sqrt(sum of (value - line)^2 / (n - 2) / n)
def mean_and_error(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The mean of values (n,) in order, n > 2, and its standard error about a straight line through them."""
    steps = np.arange(len(values))
    scatter = values - np.polyval(np.polyfit(steps, values, 1), steps)
    return float(values.mean()), math.sqrt(float((scatter**2).sum()) / (len(values) - 2) / len(values))


def compare(ours: list[Row], theirs: list[Row]) -> list[dict[str, Any]]:
    """The whole loss of each window that both have, up to `FIRST_IMAGES`."""
    rows = []
    known = {row["images"]: row["loss"] for row in theirs}
    for row in ours:
        if row["images"] > FIRST_IMAGES or row["images"] not in known:
            continue
        (mean, error), (expected, expected_error) = row["loss"], known[row["images"]]
        rows.append({
            "images": row["images"],
            "theirs": expected,
            "ours": mean,
            "difference_percent": rounded(100 * (mean / expected - 1)),
            "errors": rounded((mean - expected) / math.hypot(error, expected_error)) if mean != expected else 0.0,
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    main()

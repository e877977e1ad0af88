"""Whether the fast way trains as well: the embedded recipe twice from the same seeds, in plain float32 and in ours.

Adds its numbers to docs/performance.json and writes docs/performance.md anew; `make bench` keeps them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.cases import TRAINING
from benchmarks.lines import read_lines
from benchmarks.speed import EQUALITY, FORMAT, ROOT, command_line, read, write
from benchmarks.subjects import BASELINE, KERNELS
from benchmarks.timing import CPU, rounded
from spherectl import recipe as recipes
from spherectl import zoo
from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.errors import SpherectlError, UsageError
from spherectl.model import kernels
from spherectl.recipe import Recipe
from spherectl.training.loop import train
from spherectl.training.plan import resolve

FOLDERS = {BASELINE: "float32", KERNELS: "fast"}
CHECKPOINT_STEPS = 50  # what a killed run loses at most
TOLD_S = 30  # seconds between words on the progress


def main() -> None:
    """Train both, and write both files."""
    parser = argparse.ArgumentParser(prog="benchmarks.training_equality", description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=500, help="of each training; default %(default)s")
    parser.add_argument("--last", type=int, default=100, help="steps whose losses are averaged; default %(default)s")
    parser.add_argument("--recipe", default="fashion-mnist", help="default %(default)s")
    parser.add_argument("--data", type=Path, help="the data set, where it is not in its usual place")
    parser.add_argument("--work", type=Path, help="keep both run folders there; the same command goes on after a stop")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder; default docs")
    given = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            results = compare(given, given.work or Path(scratch))
        write(given.out, {"format": FORMAT, **read(given.out), EQUALITY: results})
    except SpherectlError as error:
        sys.exit(f"error: {error}")
    print(given.out / "performance.md")


def compare(given: Namespace, work: Path) -> dict[str, Any]:
    """Both trainings; JSON-able.

    Args:
        given: steps, last, recipe, data.
        work: where the run folders are; what is finished there is not done again.

    Raises:
        UsageError: more steps are averaged than there are, or there are no kernels here, so that nothing is compared.
    """
    if not 1 <= given.last <= given.steps:
        raise UsageError(f"--last must lie between 1 and --steps = {given.steps}; got {given.last}.")
    if not kernels.available():
        raise UsageError(f"There is no fast way to compare with: the kernels are {kernels.explain()}.")
    recipe = recipes.load(zoo.find_recipe(given.recipe))
    images = open_dataset(recipe.data, recipe.model.image_size, root=given.data)
    rows = [
        {"path": path, **summary(losses(recipe, images, path, given.steps, work / folder), given.last)}
        for path, folder in FOLDERS.items()
    ]
    exact, fast = (row["mean_loss"] for row in rows)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command_line("benchmarks.training_equality"),
        "recipe": recipe.name,
        "steps": given.steps,
        "last": given.last,
        "length": given.steps * recipe.run.batch_size,
        "difference_percent": rounded(100 * abs(fast / exact - 1)),
        "rows": rows,
    }


def losses(recipe: Recipe, images: ImageSet, path: str, steps: int, folder: Path) -> list[dict[str, float]]:
    """The lines of metrics of a training in one way, done as far as they are missing.

    Args:
        recipe: not resolved.
        images: its data.
        path: a key of `TRAINING`.
        steps: length of the training.
        folder: of the run.
    """
    dtype, attention = TRAINING[path]
    length, batch = steps * recipe.run.batch_size, recipe.run.batch_size
    run = {"dtype": dtype, "length_images": length, "sample_images": length, "default": False}
    run["checkpoint_images"] = CHECKPOINT_STEPS * batch
    resolved = resolve(recipe.replace(run=run, model={"attention": attention}), images, CPU)
    told = 0.0

    def tell(line: dict[str, float]) -> None:
        nonlocal told
        if time.monotonic() - told > TOLD_S:
            told = time.monotonic()
            print(f"{path}: step {line['step']:.0f} of {steps}, loss {line['loss']:.4f}", file=sys.stderr, flush=True)

    outcome = train(resolved, images, folder, device=CPU, on_step=tell)
    return read_lines(outcome.run.metrics)


def summary(lines: list[dict[str, float]], last: int) -> dict[str, Any]:
    """Mean loss of the last steps."""
    return {"mean_loss": float(f"{sum(line['loss'] for line in lines[-last:]) / last:.6g}")}


if __name__ == "__main__":
    main()

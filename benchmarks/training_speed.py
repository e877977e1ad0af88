"""Training beside that of an earlier commit, and what waiting for images and saving cost it.

Both trees run `spherectl train` in turn, each run a process of its own, so that a ratio is of the same hour. Writes
docs/training-speed.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.lines import read_lines
from benchmarks.speed import ROOT, command_line
from benchmarks.timing import machine, rounded, tell
from spherectl import recipe as recipes
from spherectl import zoo
from spherectl.errors import SpherectlError, UsageError
from spherectl.files import write_text
from spherectl.training.run import Run
from spherectl.versions import versions

WARM = 5  # first steps of a run, which are not counted: threads, caches and images on their way
SAVE_STEPS = 5


def main() -> None:
    """Train in turn, and write the file."""
    parser = argparse.ArgumentParser(prog="benchmarks.training_speed", description=__doc__.partition("\n")[0])
    parser.add_argument("--against", required=True, help="commit, tag or branch to compare with")
    parser.add_argument("--recipe", default="fashion-mnist", help="default %(default)s")
    parser.add_argument("--steps", type=int, default=30, help=f"of a run, more than {WARM}; default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each tree; default %(default)s")
    parser.add_argument("--data", type=Path, help="the data set, where it is not in its usual place")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "training-speed.json", help="default %(default)s")
    given = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as scratch, earlier_tree(given.against, Path(scratch)) as tree:
            results = compare(given, tree, Path(scratch))
        write_text(given.out, json.dumps(results, indent=1) + "\n")
    except SpherectlError as error:
        sys.exit(f"error: {error}")
    print(given.out)


@contextlib.contextmanager
def earlier_tree(commit: str, scratch: Path) -> Iterator[Path]:
    """The repository's files as they were at a commit.

    Raises:
        UsageError: there is no such commit.
    """
    tree = scratch / "earlier"
    added = git("worktree", "add", "--detach", str(tree), commit)
    if added.returncode:
        raise UsageError(f"Cannot check out {commit}: {added.stderr.strip().splitlines()[-1]}.")
    try:
        yield tree
    finally:
        git("worktree", "remove", "--force", str(tree))


def git(*words: str) -> subprocess.CompletedProcess[str]:
    """Git in the repository."""
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)


def compare(given: Namespace, tree: Path, scratch: Path) -> dict[str, Any]:
    """Both trees in turn; JSON-able.

    Args:
        given: against, recipe, steps, rounds, data.
        tree: of the earlier commit.
        scratch: for the run folders.

    Raises:
        UsageError: too few steps or rounds.
        SpherectlError: a training failed.
    """
    if given.steps < 2 * WARM or given.rounds < 1:
        raise UsageError(f"Expected at least {2 * WARM} steps and 1 round; got {given.steps} and {given.rounds}.")
    batch = recipes.load(zoo.find_recipe(given.recipe)).run.batch_size
    about = {"date": datetime.now(UTC).date().isoformat(), "command": command_line("benchmarks.training_speed")}
    about |= {"machine": machine(), "versions": versions(), "against": given.against, "recipe": given.recipe}
    now, earlier = [], []
    for number in range(given.rounds):
        pair = [(ROOT, now), (tree, earlier)]
        for root, found in pair if number % 2 == 0 else pair[::-1]:
            found.append(trained(given, root, scratch / f"run-{number}-{root.name}", batch))
        rates = [images_per_s(one[-1], batch) for one in (now, earlier)]
        tell(f"round {number + 1} of {given.rounds}: {rates[0]:.1f} images/s now, {rates[1]:.1f} then")
    ratios = [images_per_s(a, batch) / images_per_s(b, batch) for a, b in zip(now, earlier, strict=True)]
    return about | {
        "steps": given.steps,
        "rounds": given.rounds,
        "images_per_s": rounded(statistics.median(images_per_s(one, batch) for one in now)),
        "images_per_s_then": rounded(statistics.median(images_per_s(one, batch) for one in earlier)),
        "ratio": rounded(statistics.median(ratios)),
        "lowest_ratio": rounded(min(ratios)),
        "highest_ratio": rounded(max(ratios)),
        **{key: rounded(value) for key, value in costs(now, batch).items()},
    }


def trained(given: Namespace, root: Path, run: Path, batch: int) -> list[dict[str, float]]:
    """The metrics of a short training by the code below `root`, which saves every few steps."""
    lengths = {"length_images": given.steps, "checkpoint_images": SAVE_STEPS, "sample_images": given.steps}
    changes = [word for key, steps in lengths.items() for word in ("--set", f"run.{key}={steps * batch}")]
    data = ["--data", str(given.data.resolve())] if given.data else []
    done = subprocess.run(
        [sys.executable, "-m", "spherectl", "train", given.recipe, "--run-dir", str(run), *changes, *data],
        env=os.environ | {"PYTHONPATH": str(root)},
        cwd=run.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SpherectlError(f"The training of {root} failed: {done.stderr.strip().splitlines()[-1]}")
    return read_lines(Run(run).metrics)


def images_per_s(lines: list[dict[str, float]], batch: int) -> float:
    """Of all steps but the first ones, with all that lies between them."""
    return batch * (len(lines) - WARM) / (lines[-1]["wall_s"] - lines[WARM - 1]["wall_s"])


def costs(runs: list[list[dict[str, float]]], batch: int) -> dict[str, float]:
    """What waiting and saving add to a step.

    Returns:
        data_wait_share: of a step's time.
        pause_after_save: from the end of a step that was followed by a save to the start of the next one, in usual
            steps; median.
        step_after_save: the step that is computed while the checkpoint is written, in usual steps; median.
    """
    waited = steps = 0.0
    pauses, during, usual = [], [], []
    for lines in runs:
        for before, line in zip(lines[WARM - 1 :], lines[WARM:], strict=False):
            step_s = batch / line["images_per_s"]
            waited, steps = waited + line["data_wait_s"], steps + step_s
            if before["step"] % SAVE_STEPS == 0:
                pauses.append(line["wall_s"] - before["wall_s"] - step_s)
                during.append(step_s)
            else:
                usual.append(step_s)
    typical = statistics.median(usual)
    return {
        "data_wait_share": waited / steps,
        "pause_after_save": statistics.median(pauses) / typical,
        "step_after_save": statistics.median(during) / typical,
    }


if __name__ == "__main__":
    main()

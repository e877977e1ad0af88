"""Train experiments/recipes/, measure each, and write docs/evidence.json and docs/evidence.md.

What has a result is left alone, and a training that was stopped goes on from its last checkpoint, so the same command
is given again until nothing is missing. Each result is in the JSON as soon as it is there; the page is written from
that alone, by --page too. Images need the trained models, and are plotted at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import ROOT, command_line
from benchmarks.tables import Row
from benchmarks.timing import machine, tell
from experiments.evidence import measures
from experiments.evidence.figures import draw_images
from experiments.evidence.judge import Judge, judge
from experiments.evidence.page import page
from experiments.trials import begin, pace, placed, table_of, trained
from spherectl import recipe as recipes
from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.errors import FileError, SpherectlError, TrainingError, UsageError
from spherectl.features.independence import check_independent
from spherectl.files import write_text
from spherectl.model.devices import choose_device
from spherectl.recipe import Recipe
from spherectl.tables import parse_overrides
from spherectl.training.plan import resolve
from spherectl.training.run import Run, describe_device
from spherectl.versions import versions

RECIPES = Path(__file__).parents[1] / "recipes"

# In this order, so that what the page leans on most is there first.
RUNS = (
    *("base", "vae-kl-1e-2", "diffusion", "vae-kl-1e-3", "vae-kl-1e-1", "vae-kl-1e-4", "vae-kl-1", "vae-kl-3"),
    *("vae-kl-10", "unconditional", "reconstruction-alone", "no-consistency", "no-latent", "no-perceptual"),
    *("angle-70", "angle-85"),
)


def main() -> None:
    """Do what is missing."""
    parser = argparse.ArgumentParser(
        prog="experiments.evidence",
        description=__doc__.partition("\n")[0],
        epilog=f"Runs: {', '.join(RUNS)}.",
    )
    parser.add_argument("names", nargs="*", metavar="RUN", help="those to do; default all")
    parser.add_argument("--page", action="store_true", help="write the page from the JSON there is, and nothing else")
    parser.add_argument("--images", type=int, help="that each training sees; default the recipes' 60,000")
    parser.add_argument("--count", type=int, default=2000, help="images of each score; default %(default)s")
    parser.add_argument("--resamples", type=int, default=200, help="of the bootstrap; default %(default)s")
    parser.add_argument("--draws", type=int, default=99, help="of uniform points; default %(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of all recipes")
    parser.add_argument("--device", default="auto", help="default %(default)s")
    parser.add_argument("--threads", type=int, help="of the CPU; default one a core")
    parser.add_argument("--data", type=Path, help="the data set, where it is not in its usual place")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "evidence", help="run folders")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder; default docs")
    given = parser.parse_args()
    try:
        failed = write_page(given.out) if given.page else run(given)
    except SpherectlError as error:
        sys.exit(f"error: {error}")
    print(given.out / "evidence.md")
    if failed:
        sys.exit(f"error: {', '.join(failed)}: the training failed, as told above; nothing is recorded of it.")


def write_page(out: Path) -> list[str]:
    """The page of the JSON in a folder; nothing fails."""
    path = out / "evidence.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise FileError(f"There is no {path} to write a page from.", "Leave --page out to measure first.") from None
    write_text(out / "evidence.md", page(results))
    return []


def run(given: Namespace) -> list[str]:
    """Every chosen run that has no result yet, then the images; both files are written after each.

    Args:
        given: names, images, count, resamples, draws, set, device, threads, data, work, out.

    Returns:
        Names of the runs whose training failed.

    Raises:
        UsageError: an unknown run, or results of other settings.
        TrainingError: another process works in that folder.
    """
    if unknown := [name for name in given.names if name not in RUNS]:
        raise UsageError(f"There is no run {', '.join(unknown)}; those there are: {', '.join(RUNS)}.")
    if given.threads:
        torch.set_num_threads(given.threads)
    device = choose_device(given.device)
    base = load("base", given)
    train, test = (
        open_dataset(base.data, base.model.image_size, root=given.data, split=split) for split in ("train", "test")
    )
    failed = []
    with Run(given.work).locked():
        about = {"base": table_of(resolve(base, train, device)), "count": given.count, "resamples": given.resamples}
        results = begin(given.out, about, name="evidence", rows="runs")
        done = {row["name"] for row in results["runs"]}
        asked = [name for name in RUNS if name not in done and (not given.names or name in given.names)]
        by = judge(train, test, given.count, given.resamples)
        if by.extractor.scorer is not None:
            check_independent(base, by.extractor.scorer)
        for name in asked:
            try:
                row = one(name, given, train, by, device)
            except TrainingError as error:
                tell(f"{name}: {error}")
                failed.append(name)
                continue
            results["real"] = results.get("real") or {"scorer": by.extractor.name, **by.real()}
            results["runs"] = placed(results["runs"], row, RUNS)
            write(given.out, results)
        if results["runs"] and (asked or not results.get("images")):
            results["images"] = draw_images(results, given.work, by, given.out / "evidence", given.device)
            write(given.out, results)
    return failed


def load(name: str, given: Namespace) -> Recipe:
    """A recipe of the evidence, as long as it was asked for."""
    recipe = recipes.load(RECIPES / f"{name}.toml", parse_overrides(given.set))
    if given.images:
        third = max(given.images // 3, recipe.run.batch_size)
        lengths = {"length_images": given.images, "milestone_images": third, "sample_images": given.images}
        lengths["checkpoint_images"] = min(recipe.run.checkpoint_images, third)
        recipe = recipe.replace(run=lengths)
    return recipe


def one(name: str, given: Namespace, train: ImageSet, by: Judge, device: torch.device) -> Row:
    """Train and measure one run."""
    recipe = resolve(load(name, given), train, device)
    folder = given.work / name
    done = trained(name, recipe, train, folder, device).run
    tell(f"{name}: measuring")
    row: Row = {"name": name, "kind": recipe.model.kind, "summary": recipe.summary, "kl": recipe.loss.kl}
    row |= {"images_seen": recipe.run.length_images, **pace(done), "machine": computer(device)}
    match recipe.model.kind:
        case "sphere":
            return row | measures.of_sphere(folder, by, whole=name == "base", draws=given.draws, device=given.device)
        case "vae":
            return row | measures.of_vae(folder, by, draws=given.draws, device=given.device)
    return row | measures.of_diffusion(folder, by, device=given.device)


def computer(device: torch.device) -> dict[str, Any]:
    """What trains and times a run: those of one table may have been done on several machines."""
    found = machine()
    return {key: found[key] for key in ("processor", "flags")} | {"device": describe_device(device)}


def write(out: Path, results: dict[str, Any]) -> None:
    """Both files, each whole or not at all."""
    results |= {"date": datetime.now(UTC).date().isoformat(), "command": command_line("experiments.evidence")}
    results["versions"] = versions()
    write_text(out / "evidence.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    write_page(out)


if __name__ == "__main__":
    main()

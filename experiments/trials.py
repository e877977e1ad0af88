"""Short trainings of a recipe, one change at a time: what helps the embedded model, and what does not.

Each trial sees the same number of images, with the whole schedule of learning rates in them, and is scored as a model
card is. A trial that ends is added to docs/trials.json at once, and docs/trials.md is written anew from that alone.
The same command goes on where it was stopped: from the last checkpoint of the trial it was in.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.lines import read_lines
from benchmarks.speed import ROOT, command_line
from benchmarks.tables import Columns, Row, show, table
from benchmarks.timing import CPU, machine, rounded, tell
from experiments.trial_scores import scores
from spherectl import api, zoo
from spherectl import recipe as recipes
from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.errors import FileError, SpherectlError, TrainingError, UsageError
from spherectl.files import write_text
from spherectl.recipe import SIZES, Recipe, Size
from spherectl.tables import flatten, parse_overrides
from spherectl.training.loop import Outcome, train
from spherectl.training.plan import resolve
from spherectl.training.run import Run
from spherectl.versions import versions

CHECKPOINT_IMAGES = 5_000  # what a killed trial loses at most
TOLD_S = 60  # seconds between words on the progress
FORMAT = 1  # of the JSON


@dataclass(frozen=True)
class Trial:
    """One change of the recipe.

    Attributes:
        name: of its row and of its run folder.
        changes: as after --set, with spaces between; empty for the recipe as it is.
        why: one sentence without its full stop.
    """

    name: str
    changes: str
    why: str

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe with the changes."""
        return with_changes(recipe, self.changes)


# What these trials have since brought into the recipe, undone: all rows share the base that the first ones had.
BEGUN_WITH = {
    "fashion-mnist": "noise.hard_case_probability=0.1 loss.pooled=0 loss.rec=10 loss.con=5 loss.con_perceptual=0.5 "
    "loss.latent=0.1 loss.centre=0 loss.schedule=[] optim.ema_half_life_images=15_000 sample.strength=constant "
    "sample.noise_deg=training"
}

TOGETHER = (
    "noise.hard_case_probability=0.25 loss.pooled=1.5 loss.con=3.75 loss.con_perceptual=0.75 loss.latent=1 "
    "loss.centre=1 optim.ema_half_life_images=50_000"
)

# In this order: first what is most likely to bring samples nearer to real images.
TRIALS = (
    #     name                changes                              why
    Trial("base",             "",                                  "what the others are compared with"),
    Trial("no-encoder-mixer", "model.encoder_mixer_blocks=0",      "its norm gives empty border tokens full length"),
    Trial("latent-2048",      "model.compression_ratio=1.5",       "four times the signal is left at 80 degrees"),
    Trial("pixels-third",     "loss.rec=3.3 loss.con=1.7",         "samples are soft; squared errors ask for that"),
    Trial("latent-loss-0",    "loss.latent=0",                     "it draws the latents of a class together"),
    Trial("batch-32",         "run.batch_size=32 optim.lr=2e-3",   "twice the steps at the same rate of 1e-3"),
    Trial("consistency-x2",   "loss.con=10 loss.con_perceptual=1", "these two alone see the largest noise"),
    Trial("angle-85",         "noise.angle_deg=85",                "nearer to the 90 degrees samples begin at"),
    Trial("encoder-lr-1",     "optim.encoder_lr_ratio=1",          "it may spread its latents sooner"),
    Trial("angle-70",         "noise.angle_deg=70",                "more is left in the noise to decode sharply"),
    Trial("blocks-8",         "model.size=micro-8",                "depth: a third more blocks"),
    Trial("lr-2e-3",          "optim.lr=2e-3",                     "the loss still falls when the schedule ends"),
    Trial("width-192",        "model.size=micro-192",              "width: half as much again"),
    Trial("latent-256",       "model.compression_ratio=12",        "a tenth of 512 dimensions is in use"),
    Trial("latent-loss-1",    "loss.latent=1",                     "the encoder must read the decoder's own images"),
    Trial("no-label-dropout", "loss.label_dropout=0",              "unguided samples never use the null class"),
    Trial("no-decoder-mixer", "model.decoder_mixer_blocks=0",      "its gates hardly move in a short run"),
    Trial("patch-2",          "model.latent_resolution=high",      "256 tokens as in the paper; four times the time"),
    Trial("pooled-3",         "loss.pooled=3",                     "fabric is smooth where its place is not known"),
    Trial("centre-1",         "loss.centre=1",                     "samples begin without what a class shares"),
    Trial("features",         "loss.con=2.5 loss.con_perceptual=1", "far points: less a mean of pixels"),
    Trial("together",         TOGETHER,                            "what the recipe ends with"),
)  # fmt: skip

NAMES = tuple(trial.name for trial in TRIALS)

# Sizes that recipes do not have, known while trials run. To sample with such a model, put its size into `SIZES`.
SHAPES = {
    #                  width blocks heads in-context start
    "micro-8":   Size(   128,     8,    4,  2),
    "micro-192": Size(   192,     6,    6,  2),
}  # fmt: skip

SCORES: Columns = {
    "name": "trial",
    "changes": "--set",
    "floors_1": "1 step, FD ratio",
    "floors_4": "4 steps, FD ratio",
    "floors_noised": "noised, FD ratio",
    "right_1": "1 step, accuracy, %",
    "right_4": "4 steps, accuracy, %",
    "recall_4": "4 steps, recall",
    "psnr_db": "PSNR, dB",
    "spread_1": "spread",
}
INSIDE: Columns = {
    "name": "trial",
    "parameters": "parameters",
    "latent_size": "L",
    "rank": "rank",
    "shared": "shared",
    "images_per_s": "images/s",
    "cpu_minutes": "CPU minutes",
    "why": "why",
}

PAGE = """\
# Short trials

Each row is one training of the recipe [{recipe}](../recipes/{recipe}.toml), cut to {images:,} images, with one change.
{before}This command ran on {date}, on {processor}, {threads} of its threads; it writes this page from
[trials.json](trials.json):

    {command}

{scores}

Scores are of {count:,} unguided, class-balanced samples, with shared noise and averaged weights.

- FD ratio: Frechet distance to the test images, over the distance of as many training images ({floor}).
- Accuracy: of {scorer}, which has {right_real} % on real test images. The recall of training images is {recall_real}.
- Noised: training images, turned by the largest usual angle of training and decoded with their own classes. A first
  step loses what these lose; the rest is lost between that angle and the 90 degrees where sampling begins.
- PSNR: of reconstructions of the test images.
- Spread: the largest difference between the channels of a one-step sample, of 255 levels.

{inside}

- Rank: effective rank of the latents of {latents:,} test images, at most L: exp of the entropy of the normalised
  eigenvalues of the second-moment matrix of their unit vectors.
- Shared: length of the mean unit latent of a class, averaged over the classes: 0 for points all over the sphere, 1 for
  one point.
- Images/s: median, on a machine that does other work too. CPU minutes are of the training alone.

## Limits

A run of {images:,} images is short: the tables say what helps early. Differences of a few percent are noise.
"""


def main() -> None:
    """Run what is missing, and write both files."""
    parser = argparse.ArgumentParser(
        prog="experiments.trials",
        description=__doc__.partition("\n")[0],
        epilog=f"Trials: {', '.join(trial.name for trial in TRIALS)}.",
    )
    parser.add_argument("names", nargs="*", metavar="TRIAL", help="those to run; default all")
    parser.add_argument("--images", type=int, default=60_000, help="that each trial sees; default %(default)s")
    parser.add_argument("--count", type=int, default=2000, help="samples at each number of steps; default %(default)s")
    parser.add_argument("--recipe", default="fashion-mnist", help="the base; default %(default)s")
    parser.add_argument("--data", type=Path, help="the data set, where it is not in its usual place")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "trials", help="run folders; default runs/trials")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder; default docs")
    given = parser.parse_args()
    try:
        failed = run(given)
    except SpherectlError as error:
        sys.exit(f"error: {error}")
    print(given.out / "trials.md")
    if failed:
        sys.exit(f"error: {', '.join(failed)}: the training failed, as told above; nothing is recorded of it.")


def run(given: Namespace) -> list[str]:
    """Every chosen trial that has no result yet; both files are written after each.

    Args:
        given: names, images, count, recipe, data, work, out.

    Returns:
        Names of the trials whose training failed.

    Raises:
        UsageError: an unknown trial, or results of another base.
        TrainingError: another process runs trials in that folder.
    """
    chosen = choose(given.names)
    SIZES.update(SHAPES)
    recipe = begun_with(recipes.load(zoo.find_recipe(given.recipe)))
    dataset, test = (
        open_dataset(recipe.data, recipe.model.image_size, root=given.data, split=split) for split in ("train", "test")
    )
    failed = []
    with Run(given.work).locked():
        results = begin(given.out, {"base": table_of(shortened(recipe, given.images, dataset)), "count": given.count})
        for trial in missing(chosen, results["trials"]):
            changed = shortened(trial.apply(recipe), given.images, dataset)
            try:
                outcome = trained(trial.name, changed, dataset, given.work / trial.name)
            except TrainingError as error:
                tell(f"{trial.name}: {error}")
                failed.append(trial.name)
                continue
            tell(f"{trial.name}: scoring")
            about, row = scores(api.load(outcome.run.path), dataset, test, given.count)
            results |= about | {
                "command": command_line("experiments.trials"),
                "machine": machine(),
                "versions": versions(),
            }
            results |= {"date": datetime.now(UTC).date().isoformat()}
            results["trials"] = placed(results["trials"], asdict(trial) | row | pace(outcome.run))
            write(given.out, results)
    return failed


def begun_with(recipe: Recipe) -> Recipe:
    """The recipe as it was when its trials began."""
    return with_changes(recipe, BEGUN_WITH.get(recipe.name, ""))


def with_changes(recipe: Recipe, changes: str) -> Recipe:
    """The recipe with changes as after --set, with spaces between."""
    changed: Recipe = recipe.replace(**parse_overrides(changes.split()))
    return changed


def choose(names: list[str]) -> list[Trial]:
    """The trials of those names, in the order of `TRIALS`; all for none."""
    known = [trial.name for trial in TRIALS]
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"There is no trial {', '.join(unknown)}; those there are: {', '.join(known)}.")
    return [trial for trial in TRIALS if not names or trial.name in names]


def missing(chosen: Iterable[Trial], rows: list[Row]) -> list[Trial]:
    """Those without a row of the same changes."""
    done = {(row["name"], row["changes"]) for row in rows}
    return [trial for trial in chosen if (trial.name, trial.changes) not in done]


def shortened(recipe: Recipe, images: int, dataset: ImageSet) -> Recipe:
    """The recipe of one trial, resolved: so many images, a rate that falls over them all, checkpoints often."""
    run = {"length_images": images, "sample_images": images, "checkpoint_images": CHECKPOINT_IMAGES, "default": False}
    return resolve(recipe.replace(run=run, optim={"decay_images": None}), dataset, CPU)


def table_of(recipe: Recipe) -> dict[str, Any]:
    """A resolved recipe without the folder that its data is in."""
    kept = recipe.to_table()
    kept["data"].pop("root", None)
    return kept


def begin(out: Path, about: dict[str, Any], *, name: str = "trials", rows: str = "trials") -> dict[str, Any]:
    """What the results hold so far, or what they begin with.

    Args:
        out: folder of the files.
        about: what all trials of one table have in common: base, count.
        name: of the file, and in sentences.
        rows: key of the rows.

    Raises:
        UsageError: the results there are of something else; names the keys that differ.
        FileError: the file there is not what this command writes.
    """
    path = out / f"{name}.json"
    if not path.exists():
        return {"format": FORMAT, **about, rows: []}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kept = _complete({key: found[key] for key in ("format", *about)})
    except (OSError, ValueError, KeyError, TypeError):
        raise FileError(f"{path} is not a table of {name}.", "Remove it, or give --out another folder.") from None
    asked = _complete({"format": FORMAT, **about})
    if differing := sorted(key for key in kept.keys() | asked.keys() if kept.get(key) != asked.get(key)):
        raise UsageError(
            f"{path} has {name} that differ from these in {', '.join(differing)}; they do not compare.",
            "Give --out another folder, or remove the file to begin again.",
        )
    return found


def _complete(about: dict[str, Any]) -> dict[str, Any]:
    """Flat, with the defaults of keys that recipes did not have when the base was written."""
    return flatten({**about, "base": recipes.parse(about["base"], "the base").to_table()})


def trained(name: str, recipe: Recipe, dataset: ImageSet, folder: Path, device: torch.device = CPU) -> Outcome:
    """The training, from where it was stopped; each step's CPU time goes to cpu.jsonl in its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "cpu.jsonl").open("a", encoding="utf-8", buffering=1) as file:
        told, used = 0.0, time.process_time()

        def count(line: dict[str, float]) -> None:
            nonlocal told, used
            before, used = used, time.process_time()
            file.write(json.dumps({"step": line["step"], "cpu_s": round(used - before, 4)}) + "\n")
            if time.monotonic() - told > TOLD_S:
                told = time.monotonic()
                tell(f"{name}: {line['images_seen']:,.0f} of {recipe.run.length_images:,}, loss {line['loss']:.4f}")

        return train(recipe, dataset, folder, device=device, on_step=count)


def pace(run: Run) -> Row:
    """Median images a second, and minutes of CPU time; a step that was done again counts once."""
    speeds = [line["images_per_s"] for line in read_lines(run.metrics)]
    cpu_s = {line["step"]: line["cpu_s"] for line in read_lines(run.path / "cpu.jsonl")}
    return {
        "images_per_s": rounded(statistics.median(speeds)),
        "cpu_minutes": rounded(sum(cpu_s.values()) / 60),
    }


def placed(rows: list[Row], row: Row, names: Sequence[str] = NAMES) -> list[Row]:
    """The rows with a new one, which replaces its name's old one, in the order of the names; unknown ones last."""
    order = {name: place for place, name in enumerate(names)}
    place: Callable[[Row], int] = lambda one: order.get(one["name"], len(order))  # noqa: E731
    return sorted([*(one for one in rows if one["name"] != row["name"]), row], key=place)


def write(out: Path, results: dict[str, Any]) -> None:
    """Both files, each whole or not at all."""
    write_text(out / "trials.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    write_text(out / "trials.md", page(results))


def page(results: dict[str, Any]) -> str:
    """The page of the JSON's table, which has one trial at least."""
    rows = [row | {"changes": f"`{row['changes']}`" if row["changes"] else "-"} for row in results["trials"]]
    name = results["base"]["name"]
    undone = BEGUN_WITH.get(name)
    return PAGE.format(
        **{key: results[key] for key in ("date", "command", "count", "scorer", "floor", "recall_real", "latents")},
        **{key: show(results["machine"][key]) for key in ("processor", "threads")},
        recipe=name,
        before=f"The base is the recipe before these trials changed it:\n`{undone}`.\n" if undone else "",
        images=results["base"]["run"]["length_images"],
        right_real=show(results["right_real"]),
        scores=table(rows, SCORES),
        inside=table(rows, INSIDE),
    )


if __name__ == "__main__":
    main()

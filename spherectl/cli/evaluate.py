"""`spherectl evaluate`: measure models."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spherectl import sampling
from spherectl.cli import console, models, options
from spherectl.errors import UsageError
from spherectl.evaluation.metrics import METRICS, usual
from spherectl.shown import listed, shortened

if TYPE_CHECKING:
    from spherectl.evaluation.protocol import Report

MAX_VALUES = 100  # of one option, each a row of the report
UNUSUAL = [name for name in METRICS if name not in usual()]
SETTINGS = {one.name: one for one in sampling.options()}


class Quantise(StrEnum):
    """How samples become bytes."""

    ROUND = "round"
    FLOOR = "floor"


def _list(name: str, text: str, default: str = "the model's own") -> Any:
    """An option that takes several values with commas between."""
    return typer.Option(f"--{name}", metavar="LIST", help=text, show_default=default)


def evaluate(
    asked: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="Zoo names, model files, run folders or published checkpoint folders.",
            show_default="the setting, else the newest run, else the zoo's",
        ),
    ] = None,
    steps: Annotated[str, _list("steps", "Numbers of steps.", "1,2,4")] = "1,2,4",
    guidance: Annotated[str | None, _list("guidance", "Guidance scales, as in 1,1.4.")] = None,
    noise: Annotated[str | None, _list("noise", "shared, fresh, or both as shared,fresh.")] = None,
    strength: Annotated[str | None, _list("strength", "Of the rounds' noise: constant, decaying, or both.")] = None,
    noise_deg: Annotated[
        str | None, _list("noise-deg", "Largest angle of a round's noise, in degrees below 90, as in 60,70.")
    ] = None,
    count: Annotated[
        int,
        typer.Option("--count", "-n", min=2, max=options.MAX_COUNT, help="Samples of each row; the paper has 50,000."),
    ] = 2000,
    metrics: Annotated[
        str | None, _list("metrics", f"Of {', '.join(METRICS)}.", f"all but {', '.join(UNUSUAL)}")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="NAME|PATH",
            help="inception, inception:WEIGHTS.pth, dinov2-vit-b-14, or a scoring network of the zoo.",
            show_default="the zoo's for the model's data, else inception",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="train|test|PATH",
            help="What to compare with: a split of the model's data set, a folder or list (.jsonl) of images, or "
            "statistics (.npz).",
            show_default="train, as in the paper; test for a scoring network",
        ),
    ] = None,
    data: options.Data = None,
    quantise: Annotated[
        Quantise, typer.Option("--quantise", help="How samples become bytes; the published numbers use floor.")
    ] = Quantise.ROUND,
    reconstructions: Annotated[
        int,
        typer.Option("--reconstructions", min=2, max=options.MAX_COUNT, help="Real images to reconstruct, at most."),
    ] = 2000,
    bootstrap: Annotated[
        int,
        typer.Option(
            "--bootstrap", min=0, max=options.MAX_RESAMPLES, help="Resamples behind the 95% intervals; 0: none."
        ),
    ] = 200,
    save_stats: Annotated[
        Path | None,
        typer.Option("--save-stats", metavar="NPZ", help="Write the reference's mu and sigma for later use."),
    ] = None,
    seed: options.Seed = 0,
    batch: options.Batch = 64,
    dtype: options.Dtype = options.DtypeName.AUTO,
    weights: options.Weights = options.WeightsName.EMA,
    device: options.Device = None,
    threads: options.Threads = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Write report.json, report.md and grids there; replaces those that are there.",
            show_default="no files",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure models: FID, KID, Inception Score, precision, recall, reconstruction; several are compared.

    Every row is sampled from the same seeds, and a row of real images says what a perfect model would get.

    Examples:
    spherectl evaluate --steps 1,2,4 --out report/

    spherectl evaluate runs/a runs/b --steps 4 --guidance 1,1.4

    spherectl evaluate runs/a --features inception --reference statistics.npz --count 50000 --quantise floor

    torchrun --nproc-per-node 8 -m spherectl evaluate runs/a --features inception --count 50000
    """
    from spherectl.evaluation import report as reports
    from spherectl.evaluation.extractors import default_features, open_extractor
    from spherectl.evaluation.protocol import Plan
    from spherectl.evaluation.real import open_real
    from spherectl.evaluation.reference import save_statistics
    from spherectl.evaluation.run import evaluate as measure
    from spherectl.places import check_writable
    from spherectl.processes import joined
    from spherectl.settings import load_settings

    given = {"steps": steps, "guidance": guidance, "noise": noise, "strength": strength, "noise_deg": noise_deg}
    plan = Plan(
        **{name: _values(SETTINGS[name], text) for name, text in given.items()},
        count=count,
        seed=seed,
        batch=batch,
        quantise=quantise.value,
        metrics=_words("--metrics", metrics, tuple(METRICS)) if metrics else None,
        resamples=bootstrap,
        reconstructions=reconstructions,
    )
    if bootstrap == 1:
        raise UsageError("--bootstrap 1: one resample has no spread; expected 0 for no intervals, or 2 and more.")
    if save_stats is not None and save_stats.suffix != ".npz":
        raise UsageError(f"--save-stats {save_stats}: expected a name that ends in .npz.")
    if save_stats is not None:
        check_writable(save_stats)
    if out is not None:
        check_writable(out, folder=True)
    settings = load_settings()
    with joined() as processes, console.only(processes.is_first):
        loaded = []
        names: Sequence[str | None] = asked or [None]
        for name in names:
            found = models.find(name, settings)
            with processes.first_goes_first():
                one = models.load_found(found, settings, dtype=dtype, weights=weights, device=device, threads=threads)
            loaded.append(one)
        recipe = loaded[0].recipe
        with console.progress("fetching weights", unit="B") as bar, processes.first_goes_first():
            extractor = open_extractor(features or default_features(recipe.data.kind), loaded[0].device, bar)
        with console.progress("features of the reference", unit="images") as bar:
            real = open_real(
                reference, recipe, extractor, data=data, processes=processes, progress=bar, say=console.say
            )
        if save_stats is not None and real.reference is not None:
            save_statistics(save_stats, real.reference)
        with console.progress("evaluating", unit="images") as bar:
            report = measure(loaded, plan, real, extractor, processes=processes, progress=bar)
        if report is None:
            return
        command = shlex.join(["spherectl", *sys.argv[1:]])
        files = reports.write(out, report, command) if out is not None else []
        for note in report.notes:
            console.say(f"note: {note}")
        if as_json:
            console.show_json(reports.as_json(report, command))
            return
        _show(report)
        if files:
            console.show(f"{files[1]} and {len(files) - 1} files beside it")


def _show(report: Report) -> None:
    """The tables on stdout."""
    from spherectl.evaluation.report_tables import protocol_lines, tables

    for line in protocol_lines(report):
        console.show(line)
    for title, rows in tables(report):
        console.show("")
        console.show(f"{title}:")
        console.show_rows(rows, right=tuple(set(rows[0]) - {"model", "noise", "class", "images", "of", "score"}))
    for name, copies in report.memorisation.items():
        console.show("")
        console.show(f"{name}: {copies.sentence()}")


def _values(setting: sampling.Option, text: str | None) -> tuple[Any, ...]:
    """The values of one setting of sampling, a row of the report each; of what is not said the model's own."""
    if text is None:
        return (None,)
    if setting.number is None:
        return _words(setting.flag, text, setting.words)
    high = setting.high if setting.below is None else setting.below
    try:
        values = [part if part in setting.words else setting.number(part) for part in text.split(",")]
        numbers = [value for value in values if not isinstance(value, str)]
        is_in_range = all((setting.low or 0) <= number <= (high or 0) for number in numbers)
    except ValueError:
        values, is_in_range = [], False
    if not (is_in_range and 1 <= len(values) <= MAX_VALUES):
        raise UsageError(
            f"{setting.flag} {shortened(text)}: expected numbers from {setting.low:g} to {high:g} with commas between, "
            f"at most {MAX_VALUES}."
        )
    return tuple(dict.fromkeys(values))


def _words(option: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """A list of words out of those known."""
    words = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    unknown = [word for word in words if word not in known]
    if unknown:
        raise UsageError(f"{option} {shortened(text)}: {listed(unknown) or 'nothing'} is none of {', '.join(known)}.")
    return words

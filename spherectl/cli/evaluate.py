"""`spherectl evaluate`: measure models."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from spherectl.cli import console, options
from spherectl.cli.models import find
from spherectl.errors import UsageError
from spherectl.shown import listed, shortened

if TYPE_CHECKING:
    from spherectl.api import Model
    from spherectl.data.datasets import ImageSet
    from spherectl.evaluation.extractors import Extractor
    from spherectl.evaluation.protocol import Real, Report
    from spherectl.evaluation.reference import Reference
    from spherectl.processes import Processes
    from spherectl.recipe import Recipe

T = TypeVar("T")

MAX_VALUES = 100  # of one option, each a row of the report


class Quantise(StrEnum):
    """How samples become bytes."""

    ROUND = "round"
    FLOOR = "floor"


Models = Annotated[  # default None
    list[str] | None,
    typer.Argument(
        metavar="MODEL",
        help="Zoo names, model files, run folders or published checkpoint folders.",
        show_default="the setting, else the newest run, else the zoo's",
    ),
]


def evaluate(
    models: Models = None,
    steps: Annotated[str, typer.Option("--steps", metavar="LIST", help="Numbers of steps.")] = "1,2,4",
    guidance: Annotated[
        str | None,
        typer.Option(
            "--guidance", metavar="LIST", help="Guidance scales, as in 1,1.4.", show_default="the model's own"
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            "--noise", metavar="LIST", help="shared, fresh, or both as shared,fresh.", show_default="the model's own"
        ),
    ] = None,
    strength: Annotated[
        str | None,
        typer.Option(
            "--strength",
            metavar="LIST",
            help="Of the rounds' noise: constant, decaying, or both.",
            show_default="the model's own",
        ),
    ] = None,
    noise_deg: Annotated[
        str | None,
        typer.Option(
            "--noise-deg",
            metavar="LIST",
            help="Most noise of a round, in degrees below 90, as in 60,70.",
            show_default="the model's own",
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option("--count", "-n", min=2, max=options.MAX_COUNT, help="Samples of each row; the paper has 50,000."),
    ] = 2000,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="LIST",
            help="fid, kid, is, prc (precision and recall), acc; rfid, psnr, ssim of reconstructions; lpips; "
            "uniformity of latents; memorisation.",
            show_default="all but the last three",
        ),
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
            help="What to compare with: a split of the model's data set, a folder of images, or statistics (.npz).",
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

    Every row is drawn from the same seeds, and a row of real images says what a perfect model would get.

    Examples:
    spherectl evaluate --steps 1,2,4 --out report/

    spherectl evaluate runs/a runs/b --steps 4 --guidance 1,1.4

    spherectl evaluate runs/a --features inception --reference statistics.npz --count 50000 --quantise floor

    torchrun --nproc-per-node 8 -m spherectl evaluate runs/a --features inception --count 50000
    """
    import torch

    from spherectl import api
    from spherectl.evaluation import report as reports
    from spherectl.evaluation.extractors import default_features, open_extractor
    from spherectl.evaluation.protocol import METRICS, Plan
    from spherectl.evaluation.reference import save_statistics
    from spherectl.evaluation.run import evaluate as measure
    from spherectl.places import check_writable
    from spherectl.processes import joined
    from spherectl.settings import load_settings

    plan = Plan(
        steps=_numbers("--steps", steps, int, most=options.MAX_STEPS),
        guidance=_numbers("--guidance", guidance, float, most=options.MAX_GUIDANCE) if guidance else (None,),
        noise=_words("--noise", noise, ("shared", "fresh")) if noise else (None,),
        strength=_words("--strength", strength, ("constant", "decaying")) if strength else (None,),
        noise_deg=_numbers("--noise-deg", noise_deg, float, at_least=0, most=90) if noise_deg else (None,),
        count=count,
        seed=seed,
        batch=batch,
        quantise=quantise.value,
        metrics=_words("--metrics", metrics, METRICS) if metrics else None,
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
    if threads:
        torch.set_num_threads(threads)
    with joined() as processes, console.only(processes.is_first):
        loaded: list[Model] = []
        asked: list[str | None] = [*models] if models else [None]
        for name in asked:
            found = find(name, settings)
            console.say(found.reason)
            with processes.first_goes_first():
                one = api.load_found(
                    found, device=device or settings.device, dtype=dtype.value, weights_kind=weights.value
                )
            loaded.append(one)
        recipe = loaded[0].recipe
        chosen = features or default_features(recipe.data.kind)
        with console.progress("fetching weights", unit="B") as bar, processes.first_goes_first():
            extractor = open_extractor(chosen, loaded[0].device, bar)
        against = reference or ("test" if extractor.scorer is not None else "train")
        real = _open_real(against, recipe, data, extractor, processes)
        if save_stats is not None and real.reference is not None:
            save_statistics(save_stats, real.reference)
        with console.progress("evaluating", unit="images") as bar:
            report = measure(loaded, plan, real, extractor, processes=processes, progress=bar)
        if report is None:
            return
        command = shlex.join(["spherectl", *sys.argv[1:]])
        files: list[Path] = []
        if out is not None:
            files = reports.write(out, report, command)
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
    from spherectl.evaluation import report as reports

    for line in reports.protocol_lines(report):
        console.show(line)
    if report.accuracy_real is not None:
        console.show(f"{report.extractor.name} is right about {report.accuracy_real:.1%} of real test images")
    tables = [reports.score_rows(report)]
    if report.comparisons:
        tables.append(reports.comparison_rows(report))
    if report.reconstructions:
        tables.append(reports.reconstruction_rows(report))
    tables += [reports.uniformity_rows(found) for found in report.uniformity.values()]
    for rows in tables:
        console.show("")
        console.show_rows(rows, right=tuple(set(rows[0]) - {"model", "noise", "class", "images", "of", "score"}))
    for name, copies in report.memorisation.items():
        console.show("")
        console.show(f"{name}: {copies.sentence()}")


def _open_real(
    against: str,
    recipe: Recipe,
    root: str | None,
    extractor: Extractor,
    processes: Processes,
) -> Real:
    """The reference, and the splits of the model's data set as far as they are at hand."""
    from spherectl.evaluation.embeddings import note_on_fit
    from spherectl.evaluation.protocol import Real
    from spherectl.evaluation.reference import of_images, read_statistics
    from spherectl.files import expanded, is_folder, is_there

    size = recipe.model.image_size

    def describe(images: ImageSet, what: str) -> Reference | None:
        with console.progress("features of the reference", unit="images") as bar:
            return of_images(images, extractor, what=what, processes=processes, progress=bar)

    # What is not here is fetched where it was asked for, and done without where it was not.
    asked = against in ("train", "test")
    splits = {split: _open_split(recipe, root, split, processes, download=asked) for split in ("train", "test")}
    found = {split: one for split, one in splits.items() if not isinstance(one, UsageError)}
    if asked:
        images = splits[against]
        if isinstance(images, UsageError):
            raise images
        compared: Literal["train", "test"] = "train" if against == "train" else "test"
        return Real(describe(images, against), found.get("train"), found.get("test"), compared)
    path = expanded(against)
    if is_folder(path):
        folder = _open_folder(path, recipe)
        note = note_on_fit(folder)
        return Real(describe(folder, ""), found.get("train"), found.get("test"), notes=(note,) if note else ())
    if path.suffix != ".npz":
        raise UsageError(
            f"--reference {against}: expected train, test, a folder of images, or statistics in an .npz file."
        )
    if not is_there(path):
        raise UsageError(f"--reference {against}: there is no such file.")
    reference = read_statistics(path, extractor, size) if processes.is_first else None
    return Real(reference, found.get("train"), found.get("test"))


def _open_split(
    recipe: Recipe, root: str | None, split: Literal["train", "test"], processes: Processes, *, download: bool
) -> ImageSet | UsageError:
    """One split of the model's data set, or why there is none."""
    from spherectl.data.datasets import open_dataset

    try:
        with processes.first_goes_first():
            return open_dataset(
                recipe.data,
                recipe.model.image_size,
                root=root,
                split=split,
                evaluation=True,
                download=download,
                progress=console.say,
            )
    except UsageError as error:
        return error


def _open_folder(path: Path, recipe: Recipe) -> ImageSet:
    """Any folder of images, fitted as the model's evaluation fits its own."""
    from spherectl.data.datasets import open_dataset

    spec = recipe.data.model_copy(update={"kind": "folder", "root": None})
    return open_dataset(spec, recipe.model.image_size, root=path, evaluation=True)


def _numbers(option: str, text: str, kind: Callable[[str], T], *, at_least: int = 1, most: float) -> tuple[T, ...]:
    """A list of numbers from 1, or from what else is the least, to the most there may be."""
    try:
        numbers = tuple(dict.fromkeys(kind(part) for part in text.split(",")))
    except ValueError:
        numbers = ()
    if not 1 <= len(numbers) <= MAX_VALUES or any(not at_least <= number <= most for number in numbers):  # type: ignore[operator]
        raise UsageError(
            f"{option} {shortened(text)}: expected numbers from {at_least} to {most:g} with commas between, "
            f"at most {MAX_VALUES}."
        )
    return numbers


def _words(option: str, text: str, known: tuple[Any, ...]) -> tuple[Any, ...]:
    """A list of words out of those known."""
    words = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    unknown = [word for word in words if word not in known]
    if unknown:
        raise UsageError(f"{option} {shortened(text)}: {listed(unknown) or 'nothing'} is none of {', '.join(known)}.")
    return words

"""`spherectl plot uniformity` and `plot posterior-hole`: figures of where a model's latents are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from spherectl.cli import console, models, options
from spherectl.errors import UsageError

if TYPE_CHECKING:
    from spherectl.api import Model as Loaded
    from spherectl.data.datasets import ImageSet
    from spherectl.evaluation.autoencoders import Autoencoder
    from spherectl.recipe import Recipe
    from spherectl.settings import Settings
    from spherectl.zoo import Found

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A zoo name, a model file or a run folder.",
        show_default="the setting, else the newest run, else the zoo's",
    ),
]
Figure = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="PATH", help="A .png, .svg or .pdf; replaces what is there.", show_default="a new name"
    ),
]


def uniformity(
    model: Model = None,
    vae: Annotated[
        str | None,
        typer.Option(
            "--vae",
            metavar="MODEL",
            help="A VAE, for the panel of its means: as for posterior-hole.",
        ),
    ] = None,
    data: options.Data = None,
    count: Annotated[
        int, typer.Option("--count", "-n", min=20, max=options.MAX_COUNT, help="Real images, at most.")
    ] = 1000,
    draws: Annotated[
        int,
        typer.Option(
            "--draws",
            min=19,
            max=options.MAX_RESAMPLES,
            help="Sets of uniform points that the numbers are compared with.",
        ),
    ] = 99,
    seed: options.Seed = 0,
    device: options.Device = None,
    threads: options.Threads = None,
    out: Figure = None,
    as_json: options.Json = False,
) -> None:
    """Plot how evenly latents lie on the sphere, beside uniform points, a VAE's means and pixels.

    All are projected to three dimensions by one random Gaussian matrix. Beside the figure stand the numbers, for a run
    also at three points of its training, and a page (.html) that turns the spheres.

    Examples:
    spherectl plot uniformity

    spherectl plot uniformity runs/mine --vae diffusers:stable-diffusion/vae --out uniformity.png
    """
    from spherectl.evaluation import projection
    from spherectl.files import asked_or_claimed
    from spherectl.plots import uniformity as plots
    from spherectl.plots.figures import check_target
    from spherectl.settings import load_settings

    check_target(out or Path("uniformity.png"))
    settings = load_settings()
    found = models.find(model, settings)
    loaded = _load(found, settings, device, threads)
    other = None if vae is None else _open_vae(vae, loaded.recipe, device or settings.device)
    dataset = _open(loaded.recipe, data, "test")
    asked: dict[str, Any] = {"count": count, "draws": draws, "seed": seed}
    clouds = projection.clouds(loaded, other, dataset, **asked)
    run = found.path.parent
    training = projection.through_training(run, loaded, dataset, **asked) if (run / "checkpoints").is_dir() else []
    about = (
        f"{min(count, len(dataset)):,} test images of {dataset.name}, projected to three dimensions by one random "
        f"Gaussian matrix (seed {seed}) and divided by their lengths. Expected values and p are from {draws} sets of "
        "truly uniform points of the same number and dimension."
    )
    with asked_or_claimed(out, f"{loaded.name}-uniformity") as target:
        plots.plot_uniformity(clouds, dataset.class_names, target)
        page = target.with_suffix(".html")
        plots.write_page(clouds, dataset.class_names, page, about=about, training=training)
    if as_json:
        panels = {cloud.title: plots.numbers(cloud.measured) for cloud in clouds if cloud.measured is not None}
        stages = {str(images): plots.numbers(measured) for images, measured in training}
        console.show_json({**asked, "figure": str(target), "page": str(page), "panels": panels, "training": stages})
        return
    console.show_rows(plots.panel_rows(clouds))
    if training:
        console.show("")
        console.show_rows(plots.training_rows(training))
    console.show("")
    console.show_file(target)
    console.show_file(page)


def posterior_hole(
    model: Model = None,
    vae: Annotated[
        str | None,
        typer.Option(
            "--vae",
            metavar="MODEL|diffusers:PATH",
            help="A published AutoencoderKL that diffusers reads, or a VAE of experiments/.",
        ),
    ] = None,
    data: options.Data = None,
    count: Annotated[
        int, typer.Option("--count", "-n", min=2, max=options.MAX_COUNT, help="Images of each column.")
    ] = 1000,
    rows: Annotated[
        int, typer.Option("--rows", min=1, max=options.MAX_FRAMES, help="Images of each column that are shown.")
    ] = 8,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="NAME|PATH",
            help="The network that scores, as `evaluate` takes it.",
            show_default="the zoo's for the model's data, else inception",
        ),
    ] = None,
    bootstrap: Annotated[
        int,
        typer.Option(
            "--bootstrap", min=0, max=options.MAX_RESAMPLES, help="Resamples behind the 95% intervals; 0: none."
        ),
    ] = 200,
    seed: options.Seed = 0,
    device: options.Device = None,
    threads: options.Threads = None,
    out: Figure = None,
    as_json: options.Json = False,
) -> None:
    """Plot reconstructions beside samples of the prior and of a Gaussian fitted to the latents, for sphere and VAE.

    The numbers are Frechet distances of each column to the test images; inputs are training images.

    Examples:
    spherectl plot posterior-hole --vae diffusers:stable-diffusion/vae --count 500 --out hole.png
    """
    from spherectl.evaluation.autoencoders import SphereAutoencoder
    from spherectl.evaluation.extractors import default_features, open_extractor
    from spherectl.evaluation.posterior import posterior_hole as measure
    from spherectl.evaluation.posterior import rows as rows_of
    from spherectl.evaluation.reference import of_images
    from spherectl.features.independence import check_independent
    from spherectl.files import asked_or_claimed
    from spherectl.plots.figures import check_target
    from spherectl.plots.posterior import plot_posterior_hole
    from spherectl.settings import load_settings

    check_target(out or Path("hole.png"))
    if bootstrap == 1:
        raise UsageError("--bootstrap 1: one resample has no spread; expected 0 for no intervals, or 2 and more.")
    settings = load_settings()
    loaded = _load(models.find(model, settings), settings, device, threads)
    compared: list[Autoencoder] = [SphereAutoencoder(loaded)]
    if vae is not None:
        compared.append(_open_vae(vae, loaded.recipe, device or settings.device))
    with console.progress("fetching weights", unit="B") as bar:
        extractor = open_extractor(features or default_features(loaded.recipe.data.kind), loaded.device, bar)
    if extractor.scorer is not None:
        check_independent(loaded.recipe, extractor.scorer)
    dataset, test = _open(loaded.recipe, data, "train"), _open(loaded.recipe, data, "test")
    with console.progress("features of the reference", unit="images") as bar:
        reference = of_images(test, extractor, what="test", progress=bar)
    assert reference is not None  # one process alone
    with console.progress("sampling", unit="columns") as bar:
        holes = measure(
            compared, dataset, reference, extractor, count=count, seed=seed, resamples=bootstrap, progress=bar
        )
    distance = "FID" if extractor.is_inception else "Frechet"
    with asked_or_claimed(out, f"{loaded.name}-posterior-hole") as target:
        plot_posterior_hole(holes, target, rows=rows, distance=distance)
    found = rows_of(holes)
    if as_json:
        about = {"features": extractor.name, "reference": reference.name, "seed": seed, "figure": str(target)}
        console.show_json({**about, "rows": found})
        return
    console.say(f"features: {extractor.name}; reference: {reference.name}; inputs: training images")
    head = "FID" if extractor.is_inception else "Frechet distance"
    told = [
        {"model": row["model"], "images": row["images"], "count": f"{row['count']:,}", head: _distance(row)}
        for row in found
    ]
    console.show_rows(told, right=("count",))
    console.show_file(target)


def _distance(row: dict[str, Any]) -> str:
    shown, interval = f"{row['frechet_distance']:.4g}", row["interval"]
    return shown if interval is None else f"{shown} ({interval[0]:.4g} to {interval[1]:.4g})"


def _open_vae(vae: str, recipe: Recipe, device: str) -> Autoencoder:
    """A published VAE, or a run or model file of a kind of network that has posteriors, for the images of a recipe.

    Raises:
        UsageError: it is a model of another kind, or for images of another size.
    """
    from spherectl import registry
    from spherectl.evaluation.autoencoders import DIFFUSERS, PublishedVae
    from spherectl.model.devices import choose_device
    from spherectl.model.formats.header import read_header
    from spherectl.model.formats.weights import check_header
    from spherectl.settings import load_settings
    from spherectl.zoo import find_model

    size = recipe.model.image_size
    if vae.startswith(DIFFUSERS):
        return PublishedVae(vae.removeprefix(DIFFUSERS), size, choose_device(device))
    found = find_model(vae, load_settings())
    header = read_header(found.path) if found.path.is_file() else {"architecture": registry.SPHERE.header_name}
    kind = registry.of_header(header["architecture"])
    if kind is None or kind.autoencoder is None:
        check_header(found.path, header, "vae")
        raise UsageError(f"--vae {vae}: a {header['architecture']} has no posteriors.", "Give a VAE.")
    opened: Autoencoder = kind.autoencoder(found.path, size, device)
    return opened


def _load(found: Found, settings: Settings, device: str | None, threads: int | None) -> Loaded:
    """The averaged weights, in float32."""
    dtype, weights = options.DtypeName.FLOAT32, options.WeightsName.EMA
    return models.load_found(found, settings, dtype=dtype, weights=weights, device=device, threads=threads)


def _open(recipe: Recipe, root: str | None, split: Literal["train", "test"]) -> ImageSet:
    """One split of the model's data set."""
    from spherectl.data.datasets import open_dataset

    return open_dataset(
        recipe.data, recipe.model.image_size, root=root, split=split, evaluation=True, progress=console.say
    )

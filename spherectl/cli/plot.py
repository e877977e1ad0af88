"""`spherectl plot`: figures of trainings and of models."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from spherectl.cli import console, options
from spherectl.cli.plot_latents import posterior_hole, uniformity

app = typer.Typer(no_args_is_help=True, help="Plot figures: the curves of trainings, where latents lie, samples.")
app.command()(uniformity)
app.command("posterior-hole")(posterior_hole)


class Along(StrEnum):
    """What the curves of trainings run along."""

    IMAGES = "images"
    HOURS = "hours"
    STEPS = "steps"


@app.command()
def training(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run folders, or their names in the folder of runs.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="A .png, .svg or .pdf; replaces what is there.",
            show_default="training.png, or a new name like it",
        ),
    ] = None,
    x: Annotated[
        Along, typer.Option("--x", help="What the curves run along; hours tell a quick run from a slow one.")
    ] = Along.IMAGES,
    smooth: Annotated[
        int | None,
        typer.Option(
            "--smooth",
            metavar="N",
            min=1,
            help="Steps that the strong lines are means over; 1 plots the numbers as they are.",
            show_default="a fiftieth of the longest run",
        ),
    ] = None,
) -> None:
    """Plot the losses, rates and speed of trainings, finished or going on, in one figure.

    Examples:
    spherectl plot training runs/fashion-mnist

    spherectl plot training before after --x hours --smooth 100 --out compared.pdf
    """
    from spherectl.files import asked_or_claimed
    from spherectl.plots import curves
    from spherectl.plots import training as plots
    from spherectl.plots.figures import check_target
    from spherectl.settings import load_settings

    check_target(out or Path("training.png"))
    folder = load_settings().runs
    found = curves.read_curves([curves.find_run(run, folder) for run in runs])
    with asked_or_claimed(out, "training") as target:
        plots.plot_training(found, target, x=x.value, smooth=smooth)
    console.show_file(target)


@app.command()
def samples(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A zoo name, a model file or a run folder.")],
    steps: Annotated[
        str | None,
        typer.Option(
            "--steps",
            metavar="LIST",
            help="Numbers of steps, a row each.",
            show_default="1,4",
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=options.MAX_FRAMES, help="Samples in a row; classes in turn.")
    ] = 10,
    guidance: options.Guidance = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    threads: options.Threads = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="A .png; replaces what is there.", show_default="a new name"),
    ] = None,
) -> None:
    """Plot rows of samples from the same noise, one for each number of steps.

    Examples:
    spherectl plot samples fashion-mnist --steps 1,2,4 --guidance 1
    """
    import torch

    from spherectl import api, zoo
    from spherectl.errors import UsageError
    from spherectl.files import asked_or_claimed
    from spherectl.images import save_png
    from spherectl.plots.samples import sample_rows
    from spherectl.settings import load_settings
    from spherectl.training.previews import SAMPLE_STEPS

    if out is not None and out.suffix.lower() != ".png":
        raise UsageError(f"Expected a name that ends in .png, got {out}.")
    asked = [part.strip() for part in steps.split(",")] if steps else []
    if any(not part.isdecimal() or int(part) < 1 for part in asked):
        raise UsageError(f"--steps {steps}: expected numbers from 1 with commas between.")
    settings = load_settings()
    if threads:
        torch.set_num_threads(threads)
    found = zoo.find_model(model, settings)
    loaded = api.load_found(found, device=device or settings.device, dtype="float32")
    image = sample_rows(loaded, [int(part) for part in asked] or SAMPLE_STEPS, count, seed=seed, guidance=guidance)
    with asked_or_claimed(out, f"{loaded.name}-samples") as target:
        save_png(target, image, None)
    console.show_file(target)

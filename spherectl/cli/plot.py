"""`spherectl plot`: figures of trainings and of models."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from spherectl.cli import console, options
from spherectl.cli.plot_latents import posterior_hole, uniformity

app = typer.Typer(
    no_args_is_help=True, help="Draw figures: the curves of trainings, where latents lie, samples of any kind of model."
)
app.command()(uniformity)
app.command("posterior-hole")(posterior_hole)


class Along(StrEnum):
    """What the curves of trainings run along."""

    IMAGES = "images"
    HOURS = "hours"
    STEPS = "steps"


class SolverName(StrEnum):
    """How a diffusion model goes back from noise."""

    DDIM = "ddim"
    DPM = "dpm"


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
            help="Steps that the strong lines are means over; 1 draws the numbers as they are.",
            show_default="a fiftieth of the longest run",
        ),
    ] = None,
) -> None:
    """Draw the losses, rates and gauges of trainings, finished or going on, in one figure.

    Examples:
    spherectl plot training runs/fashion-mnist

    spherectl plot training before after --x hours --smooth 100 --out compared.pdf
    """
    from spherectl.files import asked_or_claimed
    from spherectl.plots import training as plots
    from spherectl.plots.figures import check_target
    from spherectl.settings import load_settings

    check_target(out or Path("training.png"))
    folder = load_settings().runs
    curves = plots.read_curves([plots.find_run(run, folder) for run in runs])
    with asked_or_claimed(out, "training") as target:
        plots.plot_training(curves, target, x=x.value, smooth=smooth)
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
            show_default="1,4 of a Sphere Encoder; 10,50 of a diffusion model",
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=options.MAX_FRAMES, help="Samples in a row; classes in turn.")
    ] = 10,
    solver: Annotated[SolverName, typer.Option("--solver", help="Of a diffusion model.")] = SolverName.DDIM,
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance",
            min=1,
            max=options.MAX_GUIDANCE,
            help="Of a Sphere Encoder; 1 is none.",
            show_default="the model's own",
        ),
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    threads: options.Threads = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="A .png; replaces what is there.", show_default="a new name"),
    ] = None,
) -> None:
    """Draw rows of samples from the same noise, one for each number of steps, of a Sphere Encoder or a baseline.

    Examples:
    spherectl plot samples fashion-mnist --steps 1,2,4 --guidance 1

    spherectl plot samples runs/evidence-diffusion --steps 4,10,50 --solver dpm --out diffusion.png
    """
    import torch

    from spherectl import api, zoo
    from spherectl.baselines import load_baseline
    from spherectl.errors import UsageError
    from spherectl.files import asked_or_claimed
    from spherectl.images import save_png
    from spherectl.model.formats.header import BASELINES, read_header
    from spherectl.plots.samples import sample_rows, usual_steps
    from spherectl.settings import load_settings

    if out is not None and out.suffix.lower() != ".png":
        raise UsageError(f"Expected a name that ends in .png, got {out}.")
    asked = [part.strip() for part in steps.split(",")] if steps else []
    if any(not part.isdecimal() or int(part) < 1 for part in asked):
        raise UsageError(f"--steps {steps}: expected numbers from 1 with commas between.")
    settings = load_settings()
    if threads:
        torch.set_num_threads(threads)
    found = zoo.find_model(model, settings)
    is_baseline = found.path.is_file() and read_header(found.path).get("architecture") in BASELINES
    where = device or settings.device
    loaded = load_baseline(model, device=where) if is_baseline else api.load_found(found, device=where, dtype="float32")
    rows = [int(part) for part in asked] or usual_steps(loaded)
    image = sample_rows(loaded, rows, count, seed=seed, solver=solver.value, guidance=guidance)
    with asked_or_claimed(out, f"{loaded.name}-samples") as target:
        save_png(target, image, None)
    console.show_file(target)

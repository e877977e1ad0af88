"""`spherectl plot`: figures from results."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from spherectl.cli import console

app = typer.Typer(no_args_is_help=True, help="Draw figures: the curves of trainings.")


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
    from spherectl import plots
    from spherectl.files import asked_or_claimed
    from spherectl.settings import load_settings

    plots.check_target(out or Path("training.png"))
    folder = load_settings().runs
    curves = plots.read_curves([plots.find_run(run, folder) for run in runs])
    with asked_or_claimed(out, "training") as target:
        plots.plot_training(curves, target, x=x.value, smooth=smooth)
    console.show(str(target))

"""`spherectl features`: train the small feature networks of the zoo, and measure one again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Train and check the small networks behind the loss and the scores.")

Data = Annotated[Path | None, typer.Option("--data", help="Folder with the data set, if not where it usually is.")]


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="fashion-features (for the loss) or fashion-scorer (for scores).")],
    out: Annotated[Path | None, typer.Option(help="File to write; default NAME.safetensors here.")] = None,
    data: Data = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data; default the network's own.")] = None,
) -> None:
    """Train a feature network on Fashion-MNIST and measure it on the test images.

    Example: spherectl features train fashion-features --out zoo/fashion-features.safetensors
    """
    import dataclasses

    from spherectl.errors import UsageError
    from spherectl.features.fit import PLANS, describe, fit, measure_accuracy, open_pictures
    from spherectl.features.store import save_feature_network

    if name not in PLANS:
        raise UsageError(f"There is no plan for a feature network {name!r}.", f"Those there are: {', '.join(PLANS)}.")
    target = out or Path(f"{name}.safetensors")
    if out is None and target.exists():
        raise UsageError(f"{target} exists already.", f"Name it to replace it: --out {target}")
    plan = PLANS[name] if epochs is None else dataclasses.replace(PLANS[name], epochs=epochs)
    pictures, tests = open_pictures("train", data), open_pictures("test", data)
    with _bar(f"training {name}") as progress:
        fitted = fit(plan, pictures, progress)
    with _bar("measuring") as progress:
        accuracy = measure_accuracy(fitted.network, tests, progress=progress)
    about = describe(name, plan, fitted, pictures, accuracy, len(tests))
    save_feature_network(target, fitted.network, plan.kind, fitted.arguments, about)
    typer.echo(f"{target}: {accuracy:.2%} of {len(tests):,} test images, {fitted.minutes:.1f} minutes")


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A feature network of the zoo, or a file.")],
    data: Data = None,
    floor: Annotated[bool, typer.Option("--floor", help="Also measure the score a perfect model would get.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a feature network on the test images again, and compare with what its file says.

    --floor adds the Frechet distance of 2,000 training images to the test images.

    Example: spherectl features check fashion-scorer --floor
    """
    from spherectl.errors import FileError
    from spherectl.features.fit import measure_accuracy, open_pictures
    from spherectl.features.scores import frechet_floor, reference_statistics
    from spherectl.features.store import find_feature_network, load_feature_network, read_feature_header

    path = find_feature_network(name)
    header, network = read_feature_header(path), load_feature_network(path)
    tests = open_pictures("test", data)
    with _bar("measuring") as progress:
        accuracy = measure_accuracy(network, tests, progress=progress)
    stated = float(header["accuracy"])
    result = {"name": name, "accuracy": accuracy, "stated": stated, "images": len(tests)}
    said = f"{name}: {accuracy:.2%} of {len(tests):,} test images; its file says {stated:.2%}"
    if floor:
        train = open_pictures("train", data)
        result["floor"] = frechet_floor(network, train, reference_statistics(network, tests), min(2000, len(train)))
        said += f"; floor of the Frechet distance {result['floor']:.3f}"
    typer.echo(json.dumps(result) if as_json else said)
    if abs(accuracy - stated) > 0.001:  # ten images of 10,000: more than rounding on another machine can turn
        raise FileError(f"{path} does not classify as its header says; it is not the file it was, or the data is not.")


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr that is called with images done, images in all, and a word on how it goes."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, note="")

        def progress(done: int, total: int, note: str) -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield progress

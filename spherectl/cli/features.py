"""`spherectl features`: train the small feature networks of the zoo, and measure one again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spherectl.cli import console, options

app = typer.Typer(no_args_is_help=True, help="List the networks behind the loss and the scores; train and check ours.")

Data = Annotated[  # default None
    Path | None,
    typer.Option("--data", metavar="PATH", help="Folder of the data set.", show_default="where it usually is"),
]


@app.command()
def ls(as_json: options.Json = False) -> None:
    """List the feature networks that spherectl knows, and what each is for.

    Example: spherectl features ls
    """
    from spherectl.features.records import records

    rows = [
        {
            "name": record.name,
            "use": record.use,
            "px": record.image_px,
            "width": record.width or None,
            "classes": record.classes or None,
            "licence": record.licence,
            "weights": record.weights,
        }
        for record in records().values()
    ]
    if as_json:
        console.show_json(rows)
    else:
        texts = [{head: "" if value is None else str(value) for head, value in row.items()} for row in rows]
        console.show_rows(texts, right=("px", "width", "classes"))


@app.command()
def train(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A network of `features ls` with weights in the zoo.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="File to write; replaces what is there.",
            show_default="NAME.safetensors, if it is not there yet",
        ),
    ] = None,
    data: Data = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs", min=1, max=options.MAX_STEPS, help="Passes over the data.", show_default="the network's own"
        ),
    ] = None,
) -> None:
    """Train a feature network on its data set and measure it on the test images.

    Example: spherectl features train fashion-features --out zoo/fashion-features.safetensors
    """
    options.prepare_for_training()
    import dataclasses

    from spherectl.errors import UsageError
    from spherectl.features.fit import describe, fit, measure_accuracy, open_images
    from spherectl.features.records import plans
    from spherectl.features.store import save_feature_network

    known = plans()
    if name not in known:
        raise UsageError(f"There is no plan for a feature network {name!r}.", f"Those there are: {', '.join(known)}.")
    target = out or Path(f"{name}.safetensors")
    if out is None and target.exists():
        raise UsageError(f"{target} exists already.", f"Name it to replace it: --out {target}")
    plan = known[name] if epochs is None else dataclasses.replace(known[name], epochs=epochs)
    images, tests = open_images(plan.data, "train", data), open_images(plan.data, "test", data)
    with console.progress(f"training {name}", unit="images") as progress:
        fitted = fit(plan, images, progress)
    with console.progress("measuring", unit="images") as progress:
        accuracy = measure_accuracy(fitted.network, tests, progress=progress)
    about = describe(name, plan, fitted, images, accuracy, len(tests))
    save_feature_network(target, fitted.network, plan.kind, fitted.arguments, about)
    console.show(f"{target}: {accuracy:.2%} of {len(tests):,} test images, {fitted.minutes:.1f} minutes")


@app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A feature network of the zoo, or a file.")],
    data: Data = None,
    as_json: options.Json = False,
) -> None:
    """Measure a feature network on the test images again, and compare with what its file says.

    Example: spherectl features check fashion-scorer
    """
    from spherectl.errors import FileError
    from spherectl.features.fit import measure_accuracy, open_images
    from spherectl.features.store import find_feature_network, load_feature_network, read_feature_header

    path = find_feature_network(name)
    header, network = read_feature_header(path), load_feature_network(path)
    tests = open_images(header.get("data", ""), "test", data)
    with console.progress("measuring", unit="images") as progress:
        accuracy = measure_accuracy(network, tests, progress=progress)
    stated = header.get("accuracy")
    result = {"name": name, "accuracy": accuracy, "stated": stated, "images": len(tests)}
    words = f"{name}: {accuracy:.2%} of {len(tests):,} test images"
    if stated is not None:
        words += f"; its file says {stated:.2%}"
    if as_json:
        console.show_json(result)
    else:
        console.show(words)
    # Ten images of 10,000 are more than rounding on another machine can turn.
    if stated is not None and abs(accuracy - stated) > 0.001:
        raise FileError(f"{path} does not classify as its header says; it is not the file it was, or the data is not.")

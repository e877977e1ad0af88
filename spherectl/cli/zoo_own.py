"""`spherectl zoo add` and `push`: models of one's own, for an index of one's own and for the Hugging Face hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spherectl.cli import console

if TYPE_CHECKING:
    from spherectl.settings import Settings
    from spherectl.zoo import Found


def add(
    model: Annotated[Path, typer.Argument(metavar="PATH", help="A model file, or a run folder.")],
    index: Annotated[Path, typer.Option("--index", metavar="FILE", help="The index that gets the entry.")],
    name: Annotated[str, typer.Option("--name", help="Of the entry.", show_default="the file's or run's")] = "",
    url: Annotated[
        str, typer.Option("--url", help="Where others get the file.", show_default="it is copied beside the index")
    ] = "",
    licence: Annotated[str, typer.Option("--licence", help="Of the weights.", show_default="as the file says")] = "",
) -> None:
    """Make an entry and a card for a model of your own, in an index of your own.

    The card's gaps say TODO. The folder of the index can be put on a web server as it is.

    Examples:
    spherectl zoo add runs/fashion-mnist --index my-zoo/index.toml --licence Apache-2.0

    SPHERECTL_ZOO_INDEX=my-zoo/index.toml spherectl zoo ls
    """
    from spherectl.zoo import MODEL_FILE
    from spherectl.zoo.additions import add as add_entry

    entry = add_entry(model / MODEL_FILE if model.is_dir() else model, index, name=name, url=url, licence=licence)
    console.say(f"{entry.name}: added to {index}; the card {entry.card} waits for your words")
    console.show_file(entry.card)


def push(
    model: Annotated[
        str, typer.Argument(metavar="NAME|RUN", help="A model as --model takes it: a name, a run, a file.")
    ],
    repo: Annotated[str, typer.Argument(metavar="hf:USER/REPO", help="Where it goes; it is created if need be.")],
    private: Annotated[bool, typer.Option("--private", help="Create a repository that others do not see.")] = False,
    licence: Annotated[
        str, typer.Option("--licence", help="Of the weights, in the card.", show_default="as the file says")
    ] = "",
) -> None:
    """Put a model on the Hugging Face hub: its file, a model card, and a grid of samples.

    Others then use it as --model hf:USER/REPO. A card that is there already stays as it is. `hf auth login` logs in.

    Example: spherectl zoo push runs/fashion-mnist hf:me/garments
    """
    from spherectl import zoo
    from spherectl.errors import UsageError
    from spherectl.settings import load_settings
    from spherectl.zoo.hub import endpoint
    from spherectl.zoo.publish import check_push
    from spherectl.zoo.publish import push as push_model

    settings = load_settings()
    name = check_push(repo, settings)
    found = zoo.find_model(model, settings)
    console.say(found.reason)
    if found.path.is_dir():
        raise UsageError(f"{found.path} is a checkpoint of another layout.", "Export it as a model file first.")
    words = zoo.read_card(zoo.find_entry(found.name, settings)) if found.kind == "zoo" else ""
    grid = _samples(found, settings)
    console.say(f"{found.name}: uploading to {name}")
    push_model(
        found.path,
        repo,
        private=private or None,
        grid=grid,
        words=words,
        licence=licence,
        bars=sys.stderr.isatty(),
    )
    console.show(f"{endpoint()}/{name.repo}")


def _samples(found: Found, settings: Settings) -> bytes:
    """A grid of samples: a run's newest, else one that is made now."""
    import tempfile

    from spherectl.files import read_bytes

    if found.kind == "run":
        grids = sorted((found.path.parent / "samples").glob("*.png"), key=lambda path: path.stat().st_mtime)
        if grids:
            return read_bytes(grids[-1])
    from spherectl import api
    from spherectl.images import grid, save_png

    model = api.load_found(found, device=settings.device)
    images = next(api.generate(model, count=16, seed=0)).images
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.png"
        save_png(path, grid(images), None)
        return read_bytes(path)
